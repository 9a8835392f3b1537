"""One command: run it in the foreground, end everything it started, report."""

from __future__ import annotations

import math

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.grounds import TEMPORARY, Grounds
from atropos_agent.sandbox.inside.program import Program, Start


def run(request: frames.Frame, grounds: Grounds) -> bytes:
    """The reply to a request for one command in a fresh shell. Raises HostGoneError, FrameError."""
    start, cpu_s = Start.asked_for(request), grounds.limits.cpu_s
    if cpu_s != math.inf:
        # The kernel ends a process that burns on; what many use together is watched.
        start = start._replace(script=b"ulimit -t %d;" % math.ceil(cpu_s) + start.script)
    program = grounds.program()
    try:
        program.spawn(start)
    except (OSError, ValueError) as error:
        program.refused(start.directory, error)
    return finish(program, grounds, timeout_s=frames.number(request.meta, "timeout_s"))


def finish(program: Program, grounds: Grounds, *, timeout_s: float) -> bytes:
    """Follow a program to its end: the reply. Raises HostGoneError."""
    family, limits = grounds.family, grounds.limits
    used_s, kills = family.used_s, limits.memory_kills()
    if not program.ended:
        program.end(grounds.follow(program, program.pidfd, timeout_s=timeout_s, cpu_s=limits.cpu_s))
    status, code = program.status, program.code
    if status == "exited" and code > 0 and full(grounds):
        status = "disk_full"
    report = program.report(status, code, cpu_s=family.used_s - used_s, kills=limits.memory_kills() - kills)
    return frames.encode({}, *report)


def full(grounds: Grounds) -> bool:
    """True where a program that failed may have failed for want of room."""
    return grounds.limits.full((grounds.limits.workspace, *TEMPORARY))
