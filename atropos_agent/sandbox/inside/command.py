"""One command: run it in the foreground, end everything it started, report."""

from __future__ import annotations

import math

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.grounds import TEMPORARY, Grounds
from atropos_agent.sandbox.inside.program import Program, Start


def run(request: frames.Frame, grounds: Grounds) -> bytes:
    """The reply to a request for one command in a fresh shell. Raises HostGoneError, FrameError."""
    start = Start.asked_for(request)
    limit = request.meta.get("cpu_s")
    if limit is not None:
        # The kernel ends a process that burns on; what many use together is watched.
        start = start._replace(
            script=b"ulimit -t %d;" % math.ceil(frames.number(request.meta, "cpu_s")) + start.script
        )
    program = grounds.program()
    try:
        program.spawn(start)
    except (OSError, ValueError) as error:
        program.refused(start.directory, error)
    return finish(request, grounds, program)


def finish(request: frames.Frame, grounds: Grounds, program: Program) -> bytes:
    """Follow a program to its end: the reply. Raises HostGoneError, FrameError."""
    meta = request.meta
    cpu_s = math.inf if meta.get("cpu_s") is None else frames.number(meta, "cpu_s")
    used_s, kills = grounds.family.used_s, grounds.limits.memory_kills
    if not program.ended:
        reason = grounds.follow(
            program, program.pidfd, timeout_s=frames.number(meta, "timeout_s"), cpu_s=cpu_s
        )
        program.end(reason)
    outcome = program.outcome()
    outcome["cpu_s"] = grounds.family.used_s - used_s
    outcome["memory_kills"] = grounds.limits.memory_kills - kills
    if outcome["status"] == "exited" and outcome["exit_code"] and full(grounds):
        outcome["status"] = "disk_full"
    return frames.encode(outcome, program.output())


def full(grounds: Grounds) -> bool:
    """True where a program that failed may have failed for want of room."""
    return grounds.limits.full((grounds.limits.workspace, *TEMPORARY))
