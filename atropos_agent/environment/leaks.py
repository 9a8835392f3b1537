"""Finds what code leaves behind in this process: tasks, threads, child processes, descriptors, sandboxes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from atropos_agent.telemetry import Kind, in_flight

_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Pauses between the looks: threads and children disappear a moment after they end. Few, because each look
collects garbage."""
_EXECUTOR = "asyncio_"
"""The name of threads of an event loop's own executor begins so; they live as long as the loop."""
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What this process holds at one moment, in words. Processes and descriptors need /proc (Linux)."""

    held: frozenset[str]

    @classmethod
    def now(cls) -> Self:
        """Look at everything, after a garbage collection: what it closes is not left behind."""
        gc.collect()
        return cls(frozenset([*_tasks(), *_threads(), *_children(), *_descriptors(), *_sandboxes()]))

    async def left_behind(self) -> list[str]:
        """What is held now and was not held then, sorted; waits up to two seconds for what is just ending."""
        for wait_s in _WAITS_S:
            if not Footprint.now().held - self.held:
                return []
            await asyncio.sleep(wait_s)
        return sorted(Footprint.now().held - self.held)


def _tasks() -> Iterator[str]:
    for task in asyncio.all_tasks():
        yield f"task {task.get_name()} of {getattr(task.get_coro(), '__qualname__', 'unknown code')}"


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if not thread.name.startswith(_EXECUTOR):
            yield f"thread {thread.name} ({thread.ident})"


def _children() -> Iterator[str]:
    """Direct children, zombies too, with their start time: a process id may be used again."""
    for stat in _PROC.glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(") ")
        except OSError:  # it has ended meanwhile
            continue
        values = fields.split()
        if int(values[1]) == os.getpid():
            yield f"child process {name}), started at tick {values[19]}"


def _descriptors() -> Iterator[str]:
    for link in (_PROC / "self/fd").glob("*"):
        try:
            target = link.readlink()
        except OSError:  # the descriptor of this very listing
            continue
        yield f"descriptor {link.name} of {target}"


def _sandboxes() -> Iterator[str]:
    for entry in in_flight.table():
        if entry.kind is Kind.SANDBOX:
            yield f"sandbox {entry.target} (owner {entry.owner!r}), held since {entry.since:.3f}"
