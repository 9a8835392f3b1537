"""Pid 1 of a slot: takes one request at a time from its channel until the host closes it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from atropos_agent.sandbox.inside import (
    check,
    command,
    confine,
    emptying,
    files,
    frames,
    furnish,
    linux,
    program,
    rootfs,
    watch,
)
from atropos_agent.sandbox.inside.background import Jobs
from atropos_agent.sandbox.inside.control import Control, HostGoneError
from atropos_agent.sandbox.inside.engine import EngineGroup
from atropos_agent.sandbox.inside.grounds import Grounds
from atropos_agent.sandbox.inside.session import Sessions
from atropos_agent.sandbox.inside.tree import Family

_READY = frames.encode({"ready": True})


class Supervisor:
    """Serves a control channel. The first frame configures the slot; each later one is a request."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._reader = frames.FrameReader()

    def run(self, outer_ids: tuple[int, int] | None = None, group: EngineGroup | None = None) -> NoReturn:
        """Set the slot up, say so, serve. Never returns; the namespace dies with this process.

        `outer_ids`, the slot's uid and gid on the host, are for namespaces in which nothing is made yet;
        `group` is for a container.
        """
        try:
            limits, family = set_up(self._receive().meta, outer_ids, group)
            self._control.send(_READY if group is None else _ready_in(group, limits))
            self._serve(Grounds(self._control, limits, family))
        except (HostGoneError, BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except OSError as error:
            self._report(f"{error.filename or 'supervisor'}: {error.strerror}", error.errno or 0)
        except Exception as error:
            self._report(_described(error), 0)
        os._exit(1)

    def _serve(self, grounds: Grounds) -> NoReturn:
        jobs, sessions = Jobs(grounds), Sessions(grounds)
        operations: dict[str, Callable[[frames.Frame], bytes]] = {
            "exec": partial(command.run, grounds=grounds),
            "check": partial(check.run, grounds=grounds),
            "reset": lambda _: self._reset(grounds, jobs, sessions),
            "start": jobs.start,
            "poll": jobs.poll,
            "end": jobs.end,
            "open_session": sessions.open,
            "run_in_session": sessions.run,
            "close_session": sessions.close,
        }
        while True:
            if grounds.kept and not self._reader.pending:
                grounds.idle()
            request = self._receive()
            operation = operations.get(str(request.meta.get("op")))
            if operation is not None:
                self._control.send(operation(request))
            else:
                files.run_in_child(request, grounds)

    def _reset(self, grounds: Grounds, jobs: Jobs, sessions: Sessions) -> bytes:
        jobs.end_all()
        sessions.close_all()
        return frames.encode({"clean": emptying.renew(grounds)})

    def _receive(self) -> frames.Frame:
        while (frame := self._reader.take()) is None:
            self._reader.feed(self._control.receive())
        return frame

    def _report(self, message: str, code: int) -> None:
        with_bounds: dict[str, object] = {"fatal": message[-4000:], "errno": code}
        try:
            self._control.send(frames.encode(with_bounds))
        except OSError:
            return


def set_up(
    meta: dict[str, object], outer_ids: tuple[int, int] | None, group: EngineGroup | None
) -> tuple[watch.Limits, Family]:
    """Make this process pid 1 of a slot as configured: the limits that are left to watch, and who lives
    there. Raises OSError, FrameError; RuntimeError where we are not pid 1."""
    os.umask(0o022)
    # One session per slot: where the kernel schedules by session, slots share fairly, and a command does not
    # wait until a session of its own gets its turn. A container engine has made one.
    if group is None:
        os.setsid()
    inodes = frames.integer(meta, "workspace_inodes")
    if outer_ids is not None:
        pairs = [pair for pair in frames.sequence(meta, "binds") if isinstance(pair, list)]
        furnish.furnish(
            outer_ids,
            workspace_bytes=frames.integer(meta, "workspace_bytes"),
            workspace_inodes=inodes,
            binds=[(str(source), str(target)) for source, target in pairs],
            template=frames.text(meta, "template"),
        )
    environment = meta.get("environment")
    if isinstance(environment, dict):
        program.ENVIRONMENT.update(environment)
    memory_bytes, processes = frames.integer(meta, "memory_bytes"), frames.integer(meta, "processes")
    watched = bool(meta.get("watch_memory")) and not (group and group.holds_memory(memory_bytes))
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    family = Family()
    confine.confine(
        # Elsewhere than in namespaces of our own, the kernel counts all containers of the uid together.
        processes=None if group and group.holds_processes(processes) else processes,
        file_bytes=frames.integer(meta, "file_bytes"),
        unseen_memory=not watched,
    )
    limits = watch.Limits(
        workspace=rootfs.WORKSPACE,
        memory_bytes=memory_bytes if watched else None,
        inodes=None if os.statvfs(rootfs.WORKSPACE).f_files == inodes else inodes,
        output_kept=frames.integer(meta, "output_kept"),
        output_limit=frames.integer(meta, "output_limit"),
        cpu_s=math.inf if meta.get("cpu_s") is None else frames.number(meta, "cpu_s"),
        group=group,
    )
    return limits, family


def _ready_in(group: EngineGroup, limits: watch.Limits) -> bytes:
    """The answer of a container, with what the host cannot know of it."""
    return frames.encode(
        {
            "ready": True,
            "holds": group.described(),
            "inodes_watched": limits.inodes is not None,
            "landlock": linux.landlock_abi(),
        }
    )


def _described(error: Exception) -> str:
    """Type, text and place. The traceback module may want files that cannot be seen from here."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' > '.join(places)})"
