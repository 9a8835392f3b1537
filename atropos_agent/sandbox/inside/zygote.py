"""The process that slots are forked from: loaded once, unprivileged, single-threaded, without an environment.

It speaks one JSON object per SEQPACKET message with the host: `{"spawn": id, "uid"}` with the slot's end of a
socketpair attached, `{"kill": id}`; it answers `{"spawned": id, "pid"}` or `{"failed": id, ...}`, and tells
`{"gone": id}` once a slot is reaped. It ends, and every slot with it, when the host closes the socket.

A namespace belongs to the uid that makes it. Where the host is root and gives each slot a uid of its own, the
zygote keeps the capabilities to take that uid on while it makes the slot, and to kill it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
from typing import NoReturn

from atropos_agent.sandbox.inside import confine, control, linux, seccomp, supervisor

# kind, slot, a number (spawn: uid; spawned: pid; failed: errno), the stage that failed
MESSAGE = struct.Struct("=cqq60p")
SPAWN, KILL = b"s", b"k"
READY, SPAWNED, FAILED, GONE = b"R", b"S", b"F", b"G"
UID_PER_SLOT = "uid-per-slot"
# The signal that ends a slot with its zygote is sent with the zygote's rights, so it needs CAP_KILL too.
_OF_ANY_SLOT = linux.CAP_SETUID, linux.CAP_SETGID, linux.CAP_KILL


class Zygote:
    """Forks slots on request and reaps them."""

    def __init__(self, host: socket.socket) -> None:
        self._host = host
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
            pid = _clone_as(uid, descriptor)
        except OSError as error:
            self._say(FAILED, slot, error.errno or 0, error.filename or "setresuid")
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


def _clone_as(uid: int, descriptor: int) -> int:
    """Start a slot whose ids outside are `uid` (-1: ours), and be again who we are."""
    own_uid, own_gid = os.getuid(), os.getgid()
    outer_ids = (own_uid, own_gid) if uid < 0 else (uid, uid)
    try:
        if uid >= 0:
            os.setresgid(uid, uid, own_gid)
            os.setresuid(uid, uid, own_uid)
        pid = linux.clone(linux.ALL_NAMESPACES)
        if pid == 0:
            _become_slot(descriptor, outer_ids)
        return pid
    finally:
        if uid >= 0:
            os.setresuid(own_uid, own_uid, own_uid)
            os.setresgid(own_gid, own_gid, own_gid)


def _become_slot(descriptor: int, outer_ids: tuple[int, int]) -> NoReturn:
    """The child of clone(): pid 1 of its namespaces."""
    try:
        # Changing ids makes /proc/self the property of root, and there the slot must map its ids.
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        host = control.take_over_socket(descriptor)
        supervisor.Supervisor(host).run(outer_ids)
    finally:
        os._exit(1)


def _drop_to(uid: int, *, retained: tuple[int, ...]) -> None:
    """Stop being root: the sandbox must never run as the host's uid 0."""
    linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    linux.retain_capabilities(*retained)
    linux.prctl(linux.PR_SET_KEEPCAPS, 0)


def main(descriptor: int, uid: int, identity: str) -> None:
    """Run a zygote on an inherited socket, as `uid` (-1: as who we are)."""
    host = socket.socket(fileno=descriptor)
    host.set_inheritable(False)
    if uid >= 0:
        _drop_to(uid, retained=_OF_ANY_SLOT if identity == UID_PER_SLOT else ())
    os.chdir("/")
    confine.ignore_signals_from_inside()
    for unseen_memory in (True, False):
        seccomp.prepared(unseen_memory=unseen_memory)
    gc.collect()
    gc.freeze()
    try:
        Zygote(host).serve()
    except (BrokenPipeError, ConnectionResetError):
        return
