"""Pid 1 of a slot: takes one request at a time from its socket until the host closes it."""

from __future__ import annotations

import os
import socket
from typing import NoReturn

from atropos_agent.sandbox.inside import confine, files, frames, linux, rootfs, watch
from atropos_agent.sandbox.inside.command import Command
from atropos_agent.sandbox.inside.control import Control, HostGoneError


class Supervisor:
    """Serves a control channel. The first frame configures the slot; each later one is a request."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._reader = frames.FrameReader()
        self._memory_limit: int | None = None
        self._inode_limit: int | None = None

    def run(self, *, tree_exists: bool, outer_ids: tuple[int, int] | None = None) -> NoReturn:
        """Set the slot up, say so, serve. Never returns; the namespace dies with this process."""
        try:
            self._set_up(self._receive().meta, tree_exists=tree_exists, outer_ids=outer_ids)
            self._control.send(frames.encode({"ready": True}))
            while True:
                self._answer(self._receive())
        except (HostGoneError, BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except OSError as error:
            self._report(f"{error.filename or 'supervisor'}: {error.strerror}", error.errno or 0)
        except Exception as error:
            self._report(_described(error), 0)
        os._exit(1)

    def _set_up(
        self, meta: dict[str, object], *, tree_exists: bool, outer_ids: tuple[int, int] | None
    ) -> None:
        os.umask(0o022)
        # One session per slot: where the kernel schedules by session, slots share fairly, and a command does
        # not wait until a session of its own gets its turn.
        os.setsid()
        if outer_ids is not None:
            _map_ids(*outer_ids)
        inodes = frames.integer(meta, "workspace_inodes")
        if not tree_exists:
            socket.sethostname("sandbox")
            linux.bring_loopback_up()
            pairs = [pair for pair in frames.sequence(meta, "binds") if isinstance(pair, list)]
            rootfs.build(
                workspace_bytes=frames.integer(meta, "workspace_bytes"),
                workspace_inodes=inodes,
                binds=[(str(source), str(target)) for source, target in pairs],
            )
        else:
            self._inode_limit = inodes
        watched = bool(meta.get("watch_memory"))
        self._memory_limit = frames.integer(meta, "memory_bytes") if watched else None
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        confine.confine(
            processes=frames.integer(meta, "processes"),
            file_bytes=frames.integer(meta, "file_bytes"),
            unseen_memory=not watched,
        )

    def _answer(self, request: frames.Frame) -> None:
        if frames.text(request.meta, "op") == "exec":
            self._control.send(Command(request, self._control.requests, self._exceeded).run())
        else:
            files.run_in_child(request, self._control)

    def _exceeded(self) -> str:
        if self._memory_limit is not None and watch.memory_exceeds(self._memory_limit):
            return "oom"
        if self._inode_limit is not None and watch.inodes_exceed(rootfs.WORKSPACE, self._inode_limit):
            return "killed"
        return ""

    def _receive(self) -> frames.Frame:
        while True:
            frame = self._reader.take()
            if frame is not None:
                return frame
            self._reader.feed(self._control.receive())

    def _report(self, message: str, code: int) -> None:
        with_bounds: dict[str, object] = {"fatal": message[-4000:], "errno": code}
        try:
            self._control.send(frames.encode(with_bounds))
        except OSError:
            return


def _described(error: Exception) -> str:
    """Type, text and place. The traceback module may want files that cannot be seen from here."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' > '.join(places)})"


def _map_ids(uid: int, gid: int) -> None:
    """One user and one group exist inside: the sandbox's, which are `uid` and `gid` outside."""
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{rootfs.USER_ID} {uid} 1"),
        ("gid_map", f"{rootfs.USER_ID} {gid} 1"),
    ):
        rootfs.write_file(f"/proc/self/{name}", line)
    # The saved ids are still those that the zygote goes back to.
    os.setresgid(*[rootfs.USER_ID] * 3)
    os.setresuid(*[rootfs.USER_ID] * 3)
