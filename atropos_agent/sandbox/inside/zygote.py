"""The process that slots are cloned from: loaded once, unprivileged, single-threaded, without an environment.

It does nothing else. Each page that it writes to between two slots is one that they do not share, and in
Python every step is a write, if only to a reference count. So all that is to be remembered is with its
parent, the reaper, whose children the slots become too.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from errno import ECONNRESET
from typing import NoReturn

from atropos_agent.sandbox.inside import control, linux, supervisor

_READY = b"ready"
_LONGEST = 100
_DESCRIPTOR = struct.Struct("=i")
_ROOM = socket.CMSG_SPACE(_DESCRIPTOR.size)
CAPABILITIES = linux.CAP_SETUID, linux.CAP_SETGID
"""What it takes to give a slot a uid of its own: a namespace belongs to the uid that makes it."""


class Zygote:
    """The zygote as the reaper sees it."""

    def __init__(self, host: socket.socket, *, retained: tuple[int, ...]) -> None:
        """Start it, with what is loaded here but for the reaper's `host`, and with these capabilities."""
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._orders.close()
                host.close()
                linux.retain_capabilities(*retained)
                _serve(theirs)
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                os._exit(0)
        theirs.close()
        if self._orders.recv(_LONGEST) != _READY:
            raise RuntimeError("the zygote did not start")

    def close(self) -> None:
        """End it. Slots live on."""
        self._orders.close()
        os.waitpid(self._pid, 0)

    def clone(self, uid: int, descriptor: int) -> int:
        """The pid of a slot that runs as `uid` outside (-1: as we do) and serves the socket `descriptor`.

        Raises OSError whose filename is the stage.
        """
        socket.send_fds(self._orders, [b"%d" % uid], [descriptor])
        pid, _, stage = (self._orders.recv(_LONGEST) or b"%d zygote" % -ECONNRESET).partition(b" ")
        if int(pid) < 0:
            raise OSError(-int(pid), os.strerror(-int(pid)), stage.decode())
        return int(pid)


def _serve(orders: socket.socket) -> None:
    """Until the reaper is gone."""
    own_uid, own_gid = os.getuid(), os.getgid()
    clone = linux.prepared_clone(linux.ALL_NAMESPACES | linux.CLONE_PARENT)
    orders.send(_READY)
    while True:
        order, control_messages, _, _ = orders.recvmsg(_LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
        if not order:
            return
        uid, (descriptor,) = int(order), _DESCRIPTOR.unpack(control_messages[0][2])
        try:
            if uid >= 0:
                os.setresgid(uid, uid, own_gid)
                os.setresuid(uid, uid, own_uid)
            pid = clone()
            if pid == 0:
                _become_slot(descriptor, (own_uid, own_gid) if uid < 0 else (uid, uid))
            answer = b"%d" % pid
        except OSError as error:
            answer = b"%d %s" % (-(error.errno or 0), (error.filename or "setresuid").encode())
        if uid >= 0:
            os.setresuid(own_uid, own_uid, own_uid)
            os.setresgid(own_gid, own_gid, own_gid)
        os.close(descriptor)
        orders.send(answer)


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
