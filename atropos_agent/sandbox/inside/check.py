"""Scoring inside the slot, out of reach of what is scored.

Everything that was started is dead by then, and what may have been prepared outside the workspace is gone.
The files of the check are written afterwards, and the check itself can change nothing but a directory of its
own: not the workspace, not its own files (Landlock, where the kernel has it). Programs come from the
read-only system.
"""

from __future__ import annotations

import os

from atropos_agent.sandbox.inside import command, frames, linux
from atropos_agent.sandbox.inside.emptying import quiet
from atropos_agent.sandbox.inside.grounds import Grounds
from atropos_agent.sandbox.inside.program import ENVIRONMENT, Start
from atropos_agent.sandbox.inside.regular import write_all

FILES = "/tmp/check"  # noqa: S108 the slot's own
SCRATCH = "/tmp/scratch"  # noqa: S108
TRUNCATE_SINCE = 3
_WRITABLE = (SCRATCH, "/dev/null", "/dev/zero", "/dev/full")
_ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
}


def run(request: frames.Frame, grounds: Grounds) -> bytes:
    """The reply to a request for a check. Raises HostGoneError, FrameError, OSError."""
    quiet(grounds)
    for directory in (FILES, SCRATCH):
        os.mkdir(directory)
    script = frames.integer(request.meta, "script")
    _write(request, script)
    start = Start(request.payload[:script], FILES, {**ENVIRONMENT, **_ENVIRONMENT}, None)
    program = grounds.program()
    try:
        program.fork(start, keep=False, prepare=_confine)
    except (OSError, ValueError) as error:
        program.refused(start.directory, error)
    reply = command.finish(program, grounds, timeout_s=frames.number(request.meta, "timeout_s"))
    quiet(grounds)  # what scores must not be read afterwards
    return reply


def _write(request: frames.Frame, at: int) -> None:
    """The files of the check, whose names are single components."""
    for name, size in frames.sizes(request.meta, "files"):
        descriptor = os.open(f"{FILES}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o555)
        try:
            write_all(descriptor, request.payload[at : at + size])
        finally:
            os.close(descriptor)
        at += size


def _confine() -> None:
    if linux.landlock_abi() >= TRUNCATE_SINCE:
        linux.restrict_writes(list(_WRITABLE))
