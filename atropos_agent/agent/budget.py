"""The time budget of a run: own time and server time are counted apart, waits for the gate are not."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from atropos_agent.trajectory import Spent


class Stopwatch:
    """A context manager that hands the seconds inside its block to a function.

    A class, because a generator-based one costs twice as much and stands in every step.
    """

    __slots__ = ("_started", "_take")

    def __init__(self, take: Callable[[float], None]) -> None:
        self._take = take
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._take(time.perf_counter() - self._started)


class Budget:
    """The time that a run has used. `max_wall_time_s` bounds its own time and its server time separately.

    `deadline` is the end of the run's own time, in the event loop's time. A wait for the server or the gate
    moves it to later. Time between turns is not counted.
    """

    __slots__ = ("_own_s", "_since", "deadline", "server_s", "tool_s", "wall_s")

    def __init__(self, max_wall_time_s: float | None, spent: Spent) -> None:
        self.wall_s: float = math.inf if max_wall_time_s is None else max_wall_time_s
        self.server_s: float = spent.server_s
        self.tool_s: float = spent.tool_s
        self.deadline: float = math.inf
        self._own_s = spent.wall_s
        self._since: float | None = None

    @property
    def server_left_s(self) -> float:
        """Seconds that the run may still wait for the server."""
        return self.wall_s - self.server_s

    @property
    def is_over(self) -> bool:
        """True where the run's own time is used up."""
        return asyncio.get_running_loop().time() >= self.deadline

    def begin_turn(self) -> None:
        """Count the time from now on as the run's own."""
        self._since = asyncio.get_running_loop().time()
        self.deadline = self._since + self.wall_s - self._own_s

    def end_turn(self) -> None:
        """Count no more time."""
        self._own_s, self._since = self._own(), None

    def at_server(self) -> Stopwatch:
        """Count the time inside a block as spent at the server."""
        return Stopwatch(self._served)

    def paused(self) -> Stopwatch:
        """Leave the time inside a block out."""
        return Stopwatch(self._pause)

    def in_tools(self) -> Stopwatch:
        """Count the time inside a block as spent in tools; it stays the run's own."""
        return Stopwatch(self._used_tools)

    def spent(self) -> Spent:
        """What was used so far."""
        return Spent(round(self.server_s, 6), round(self.tool_s, 6), round(max(self._own(), 0.0), 6))

    def _served(self, seconds: float) -> None:
        self.server_s += seconds
        self._pause(seconds)

    def _used_tools(self, seconds: float) -> None:
        self.tool_s += seconds

    def _pause(self, seconds: float) -> None:
        self.deadline += seconds
        if self._since is not None:
            self._since += seconds

    def _own(self) -> float:
        if self._since is None:
            return self._own_s
        return self._own_s + asyncio.get_running_loop().time() - self._since
