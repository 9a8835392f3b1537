"""What the programs of one slot share, and waiting for one of them within the limits."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable

from atropos_agent.sandbox.inside import watch
from atropos_agent.sandbox.inside.control import HANG_UP, Control, HostGoneError
from atropos_agent.sandbox.inside.program import Program
from atropos_agent.sandbox.inside.report import Status
from atropos_agent.sandbox.inside.streams import Streams
from atropos_agent.sandbox.inside.tree import Family

TEMPORARY = ("/tmp", "/dev/shm")  # noqa: S108 the slot's own
_QUEUES = "/dev/mqueue"  # containers have it mounted


class Grounds:
    """Pipes, processes and limits of a slot; `kept` holds the programs that outlive commands, by pidfd, and
    `modes` the modes that the directories for its files had before any command ran."""

    def __init__(self, host: Control, limits: watch.Limits, family: Family) -> None:
        """To be made before anything has run."""
        present = [path for path in (limits.workspace, *TEMPORARY, _QUEUES) if os.path.isdir(path)]
        self.host: Control = host
        self.limits: watch.Limits = limits
        self.modes: dict[str, int] = {path: stat.S_IMODE(os.stat(path).st_mode) for path in present}
        self.family: Family = family
        self.streams: Streams = Streams()
        self.streams.watch(host.requests, HANG_UP)
        self.kept: dict[int, Program] = {}
        self.period_s: float = watch.PERIOD_S if limits.watched else math.inf

    def program(self) -> Program:
        """One that is not yet started."""
        return Program(self.streams, self.family, self.limits)

    def keep(self, program: Program) -> None:
        """Let a started program go on between commands, within the limits."""
        self.kept[program.pidfd] = program

    def forget(self, program: Program) -> None:
        """Undo `keep`."""
        if self.kept.get(program.pidfd) is program:
            del self.kept[program.pidfd]

    def idle(self) -> None:
        """Serve the kept programs, while there are any, until the host asks for something."""
        self.streams.watch(self.host.requests)
        asked = False
        while self.kept and not asked:
            for descriptor in self.streams.wait(self.period_s):
                if descriptor == self.host.requests:
                    asked = True
                else:
                    self._ended(descriptor)
            self._enforce()
        self.streams.watch(self.host.requests, HANG_UP)

    def follow(self, program: Program, awaited: int, *, timeout_s: float, cpu_s: float = math.inf) -> Status:
        """Serve the slot until `awaited` is ready, or `program` has ended ("exited"), or a limit is hit (its
        status).

        `cpu_s` is what may be used by what runs now, infinite for no limit. Raises HostGoneError.
        """
        cpu_exceeded = None if cpu_s == math.inf else self._cpu_meter(cpu_s)
        period_s = watch.PERIOD_S if cpu_exceeded or self.kept else self.period_s
        now = time.monotonic()
        until, next_check = now + timeout_s, now + period_s
        while now < until:
            if now >= next_check:
                reason = self._enforce()
                if reason is not None:
                    return reason
                if cpu_exceeded and cpu_exceeded():
                    return "timeout"
                next_check = now + period_s
            for descriptor in self.streams.wait(min(until, next_check) - now):
                if descriptor == self.host.requests:
                    raise HostGoneError
                if descriptor in (awaited, program.pidfd):
                    return "exited"
                self._ended(descriptor)
            if program.too_loud():
                return "output_limit"
            now = time.monotonic()
        return "timeout"

    def settle(self) -> None:
        """End the kept programs of which nothing but the descendants is left."""
        for pidfd, program in list(self.kept.items()):
            if self.family.status(program.pid) is not None:
                self._ended(pidfd)

    def end_kept(self, reason: Status) -> None:
        """End every kept program."""
        for program in self.kept.values():
            program.end(reason)
        self.kept.clear()

    def _ended(self, pidfd: int) -> None:
        program = self.kept.pop(pidfd, None)
        if program is not None:
            program.end()

    def _enforce(self) -> Status | None:
        """Hold the limits of the slot and of its kept programs: the status that ends all that runs, if one
        does."""
        for pidfd, program in list(self.kept.items()):
            if program.too_loud():
                self.kept.pop(pidfd).end("output_limit")
        reason = self.limits.exceeded()
        if reason is not None:
            self.end_kept(reason)
        return reason

    def _cpu_meter(self, cpu_s: float) -> Callable[[], bool]:
        """Tells, from now on, whether more than `cpu_s` was used."""
        before_s = self.family.used_s + watch.cpu_of_the_living_s()
        return lambda: self.family.used_s + watch.cpu_of_the_living_s() - before_s > cpu_s
