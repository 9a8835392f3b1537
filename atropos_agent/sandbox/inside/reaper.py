"""The process that has slots made and reaps them: unprivileged, and it holds nothing that a slot could want.

It speaks one `MESSAGE` per SEQPACKET message with the host, which asks it to `SPAWN` a slot, with the slot's
end of a socketpair attached, or to `KILL` one; it answers `SPAWNED` or `FAILED`, and tells `GONE` once a slot
is reaped. It ends, and every slot with it, when the host closes the socket.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct

from atropos_agent.sandbox.inside import confine, linux, seccomp, zygote

# kind, slot, a number (spawn: uid, -1 for ours; spawned: pid; failed: errno), the stage that failed
MESSAGE = struct.Struct("=cqq60p")
SPAWN, KILL = b"s", b"k"
READY, SPAWNED, FAILED, GONE = b"R", b"S", b"F", b"G"
UID_PER_SLOT = "uid-per-slot"
# To kill slots of other uids, also by the signal that ends them when we end: it is sent with our rights.
_CAPABILITIES = (linux.CAP_KILL,)


class Reaper:
    """Serves the host."""

    def __init__(self, host: socket.socket, source: zygote.Zygote) -> None:
        self._host = host
        self._zygote = source
        self._poller = select.epoll()
        self._slots: dict[int, tuple[int, int]] = {}  # pidfd: (slot id, pid)
        self._pids: dict[int, int] = {}  # slot id: pid

    def serve(self) -> None:
        """Until the host closes its end."""
        self._poller.register(self._host.fileno(), select.EPOLLIN)
        self._say(READY)
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor in self._slots:
                    self._reap(descriptor)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._host, MESSAGE.size, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        kind, slot, number, _ = MESSAGE.unpack_from(data)
        if kind == SPAWN:
            self._spawn(slot, number, descriptors[0])
        elif slot in self._pids:
            os.kill(self._pids[slot], signal.SIGKILL)
        return True

    def _spawn(self, slot: int, uid: int, descriptor: int) -> None:
        try:
            pid = self._zygote.clone(uid, descriptor)
        except OSError as error:
            self._say(FAILED, slot, error.errno or 0, error.filename or "zygote")
            return
        finally:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self._slots[pidfd] = slot, pid
        self._pids[slot] = pid
        self._poller.register(pidfd, select.EPOLLIN)
        self._say(SPAWNED, slot, pid)

    def _reap(self, pidfd: int) -> None:
        slot, pid = self._slots.pop(pidfd)
        os.waitpid(pid, 0)
        del self._pids[slot]
        self._poller.unregister(pidfd)
        os.close(pidfd)
        self._say(GONE, slot)

    def _say(self, kind: bytes, slot: int = 0, number: int = 0, stage: str = "") -> None:
        self._host.send(MESSAGE.pack(kind, slot, number, stage.encode()))


def _drop_to(uid: int, *, retained: tuple[int, ...]) -> None:
    """Stop being root: the sandbox must never run as the host's uid 0."""
    linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    linux.retain_capabilities(*retained)
    linux.prctl(linux.PR_SET_KEEPCAPS, 0)


def main(descriptor: int, uid: int, identity: str) -> None:
    """Serve an inherited socket, as `uid` (-1: as who we are)."""
    host = socket.socket(fileno=descriptor)
    host.set_inheritable(False)
    several = identity == UID_PER_SLOT
    if uid >= 0:
        _drop_to(uid, retained=(*zygote.CAPABILITIES, *_CAPABILITIES) if several else ())
    os.chdir("/")
    confine.ignore_signals_from_inside()
    for unseen_memory in (True, False):
        seccomp.prepared(unseen_memory=unseen_memory)
    gc.collect()
    gc.freeze()
    source = zygote.Zygote(host, retained=zygote.CAPABILITIES if several else ())
    linux.retain_capabilities(*(_CAPABILITIES if several else ()))
    try:
        Reaper(host, source).serve()
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        source.close()
