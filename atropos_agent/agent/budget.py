"""The time budget of a run: own time and server time are counted apart, waits for the gate are not."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from atropos_agent.trajectory import Spent


class Budget:
    """The time that a run has used. `max_wall_time_s` bounds its own time and its server time separately.

    `deadline` is the end of the run's own time, in the event loop's time. A wait for the server or the gate
    moves it to later. Time between turns is not counted.
    """

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

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Count the time inside the block as the run's own."""
        self._since = asyncio.get_running_loop().time()
        self.deadline = self._since + self.wall_s - self._own_s
        try:
            yield
        finally:
            self._own_s, self._since = self._own(), None

    @contextmanager
    def at_server(self) -> Iterator[None]:
        """Count the time inside the block as spent at the server."""
        started = time.perf_counter()
        try:
            yield
        finally:
            waited_s = time.perf_counter() - started
            self.server_s += waited_s
            self._pause(waited_s)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._pause(time.perf_counter() - started)

    @contextmanager
    def in_tools(self) -> Iterator[None]:
        """Count the time inside the block as spent in tools; it is also the run's own time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.tool_s += time.perf_counter() - started

    def spent(self) -> Spent:
        """What was used so far."""
        return Spent(round(self.server_s, 6), round(self.tool_s, 6), round(max(self._own(), 0.0), 6))

    def _pause(self, seconds: float) -> None:
        self.deadline += seconds
        if self._since is not None:
            self._since += seconds

    def _own(self) -> float:
        if self._since is None:
            return self._own_s
        return self._own_s + asyncio.get_running_loop().time() - self._since
