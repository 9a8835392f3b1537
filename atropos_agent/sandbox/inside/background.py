"""Programs that go on between commands: jobs, and the table of everything that is kept."""

from __future__ import annotations

import errno
import itertools

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.grounds import Grounds
from atropos_agent.sandbox.inside.program import Program, Start

_MOST = 64


class Jobs:
    """Background jobs of a slot, by number."""

    def __init__(self, grounds: Grounds) -> None:
        self._grounds = grounds
        self._jobs: dict[int, Program] = {}
        self._kills: dict[int, int] = {}
        self._numbers = itertools.count(1)

    def start(self, request: frames.Frame) -> bytes:
        """Start one: the reply names it. Raises FrameError."""
        start = Start.asked_for(request)
        program = self._grounds.program()
        try:
            if len(self._jobs) >= _MOST:
                raise OSError(errno.EAGAIN, f"{_MOST} background jobs run or were never looked at")
            program.fork(start, keep=True)
        except (OSError, ValueError) as error:
            program.refused(start.directory, error)
        else:
            self._grounds.keep(program)
        number = next(self._numbers)
        self._jobs[number] = program
        self._kills[number] = self._grounds.limits.memory_kills()
        return frames.encode({"job": number})

    def poll(self, request: frames.Frame) -> bytes:
        """The reply with what a job has written so far, and how it ended if it has; the end is reported once.

        Raises FrameError.
        """
        self._grounds.settle()
        program = self._find(request)
        if not program.ended:
            program.drain()
            return frames.encode({}, *program.report("running", 0))
        number = frames.integer(request.meta, "job")
        del self._jobs[number]
        kills = self._grounds.limits.memory_kills() - self._kills.pop(number)
        return frames.encode({}, *program.report(program.status, program.code, kills=kills))

    def end(self, request: frames.Frame) -> bytes:
        """End a job with all that it started: the reply as of `poll`. Raises FrameError."""
        program = self._find(request)
        self._grounds.forget(program)
        program.end()
        return self.poll(request)

    def end_all(self) -> None:
        """End and forget every one."""
        for program in self._jobs.values():
            self._grounds.forget(program)
            program.end()
        self._jobs.clear()
        self._kills.clear()

    def _find(self, request: frames.Frame) -> Program:
        number = frames.integer(request.meta, "job")
        if number not in self._jobs:
            raise frames.FrameError(f"no job {number}")
        return self._jobs[number]
