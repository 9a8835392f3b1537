"""The process that slots are forked from: loaded once, unprivileged, single-threaded, without an environment.

It speaks one JSON object per SEQPACKET message with the host: `{"spawn": id}` with the slot's end of a
socketpair attached, `{"kill": id}`; it answers `{"spawned": id, "pid"}` or `{"failed": id, ...}`, and tells
`{"gone": id}` once a slot is reaped. It ends, and every slot with it, when the host closes the socket.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
from typing import NoReturn

from atropos_agent.sandbox.inside import confine, control, linux, supervisor

_MESSAGE = 4096


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
        self._say(ready=True)
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor in self._slots:
                    self._reap(descriptor)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._host, _MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        message = json.loads(data)
        if "spawn" in message:
            self._spawn(message["spawn"], descriptors[0])
        elif message["kill"] in self._pids:
            os.kill(self._pids[message["kill"]], signal.SIGKILL)
        return True

    def _spawn(self, slot: int, descriptor: int) -> None:
        ids = os.getuid(), os.getgid()
        try:
            pid = linux.clone(linux.ALL_NAMESPACES)
        except OSError as error:
            self._say(failed=slot, errno=error.errno, stage="clone")
            os.close(descriptor)
            return
        if pid == 0:
            _become_slot(descriptor, ids)
        os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self._slots[pidfd] = slot, pid
        self._pids[slot] = pid
        self._poller.register(pidfd, select.EPOLLIN)
        self._say(spawned=slot, pid=pid)

    def _reap(self, pidfd: int) -> None:
        slot, pid = self._slots.pop(pidfd)
        os.waitpid(pid, 0)
        del self._pids[slot]
        self._poller.unregister(pidfd)
        os.close(pidfd)
        self._say(gone=slot)

    def _say(self, **message: object) -> None:
        self._host.send(json.dumps(message).encode("ascii"))


def _become_slot(descriptor: int, outer_ids: tuple[int, int]) -> NoReturn:
    """The child of clone(): pid 1 of its namespaces."""
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        host = control.take_over_socket(descriptor)
        supervisor.Supervisor(host).run(tree_exists=False, outer_ids=outer_ids)
    finally:
        os._exit(1)


def _drop_to(uid: int) -> None:
    """Give up root for good. The sandbox must never run as the host's uid 0."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Changing ids makes /proc/self the property of root; the child must write its own uid_map there.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


def main(descriptor: int, uid: int) -> None:
    """Run a zygote on an inherited socket, as `uid` (-1: as who we are)."""
    host = socket.socket(fileno=descriptor)
    host.set_inheritable(False)
    if uid >= 0:
        _drop_to(uid)
    os.chdir("/")
    confine.ignore_signals_from_inside()
    gc.collect()
    gc.freeze()
    try:
        Zygote(host).serve()
    except (BrokenPipeError, ConnectionResetError):
        return
