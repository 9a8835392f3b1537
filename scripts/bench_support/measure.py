"""The clock: client CPU, rollouts per second and peak memory of one contender on one workload."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from scripts.bench_support.contenders import Contender, Record
from scripts.bench_support.workload import Workload

_SESSIONS: Iterator[int] = count()


@dataclass(frozen=True, slots=True)
class Sample:
    """One batch: seconds of this process's CPU and of the wall, per rollout."""

    cpu_s: float
    wall_s: float


async def play(contender: Contender, rollouts: int, in_flight: int) -> list[Record]:
    """Play `rollouts` rollouts, `in_flight` at a time."""
    sessions = iter([f"r{next(_SESSIONS)}" for _ in range(rollouts)])
    records: list[Record] = []

    async def worker() -> None:
        records.extend([await contender.rollout(session) for session in sessions])

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, rollouts)):
            group.create_task(worker())
    return records


async def timed(contender: Contender, workload: Workload, expected: Record) -> Sample:
    """One sample. Raises RuntimeError where a rollout recorded anything but `expected`."""
    gc.collect()  # garbage of the contender before this one must not be collected on its time
    cpu, wall = time.process_time(), time.perf_counter()
    records = await play(contender, workload.rollouts, workload.in_flight)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    sampled = sum(expected.mask)
    if any(sum(record.mask) != sampled or len(record.ids) != len(expected.ids) for record in records):
        raise RuntimeError(f"a rollout of {workload.name} recorded other tokens than the reference")
    return Sample(cpu / workload.rollouts, wall / workload.rollouts)


async def peak_bytes(contender: Contender, workload: Workload) -> float:
    """Peak of what Python and numpy allocate (tracemalloc) while `in_flight` rollouts play, per rollout."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await play(contender, workload.in_flight, workload.in_flight)
        return (tracemalloc.get_traced_memory()[1] - before) / workload.in_flight
    finally:
        tracemalloc.stop()
