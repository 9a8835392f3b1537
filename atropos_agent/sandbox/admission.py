"""Who gets a sandbox next: strictly first come, first served, within a number of places and of bytes."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox.cgroup import memory_limit
from atropos_agent.sandbox.inside import rootfs
from atropos_agent.sandbox.protocol import SandboxSpec

IdleT = TypeVar("IdleT")


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be declared by all sandboxes of a pool together: `overcommit` times the memory."""

    memory_bytes: int
    overcommit: float

    @classmethod
    def of_this_machine(cls, overcommit: float) -> Budget:
        """By the memory of the machine, or of our own cgroup where that is less."""
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(min(total, memory_limit() or total), overcommit)

    @property
    def bytes(self) -> int:
        """The sum that may be declared."""
        return int(self.memory_bytes * self.overcommit)

    def check(self, spec: SandboxSpec) -> None:
        """Raises SandboxUnavailable for a sandbox that never fits."""
        if declared_bytes(spec) > self.bytes:
            fixed = rootfs.TMP_BYTES + rootfs.SHM_BYTES
            raise SandboxUnavailable(
                f"a sandbox of {in_gib(declared_bytes(spec))} (memory {in_gib(spec.memory_bytes)}, workspace "
                f"{in_gib(spec.workspace_bytes)}, /tmp and /dev/shm {in_gib(fixed)}) never fits: the budget "
                f"is {in_gib(self.bytes)}, {self.overcommit:g} times the memory of "
                f"{in_gib(self.memory_bytes)}; ask for less memory or workspace, or raise overcommit"
            )


def in_gib(size: int) -> str:
    """Bytes as text."""
    return f"{size / (1 << 30):.2f} GiB"


def declared_bytes(spec: SandboxSpec) -> int:
    """What a sandbox may take of the machine's memory at most: its processes and its file systems."""
    return spec.memory_bytes + spec.workspace_bytes + rootfs.TMP_BYTES + rootfs.SHM_BYTES


@dataclass(frozen=True, slots=True)
class Grant(Generic[IdleT]):
    """A place and `size` bytes, held until `Admission.leave`.

    `ready` is the idle sandbox to use; `spared` are idle ones to end first, since another is to be made and
    their bytes are needed for it.
    """

    size: int
    ready: IdleT | None = None
    spared: tuple[IdleT, ...] = ()

    @property
    def idle(self) -> tuple[IdleT, ...]:
        """All idle sandboxes that went with it."""
        return self.spared if self.ready is None else (self.ready, *self.spared)


class Admission(Generic[IdleT]):
    """The queue, and the books of what is in use, idle and in the making.

    Strictly first in, first out: a request that does not fit yet blocks all behind it. Idle sandboxes,
    `unit` bytes each, count as room for the first request. The sum never exceeds `budget` bytes.
    """

    def __init__(self, *, places: int, budget: int, unit: int) -> None:
        self.places = places
        self.budget = budget
        self._unit = unit
        self._queue: deque[tuple[int | None, asyncio.Future[Grant[IdleT]]]] = deque()
        self._idle: deque[IdleT] = deque()
        self._in_use = 0
        self._held = 0

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return sum(not granted.done() for _, granted in self._queue)

    @property
    def in_use(self) -> int:
        """Places taken."""
        return self._in_use

    @property
    def idle(self) -> int:
        """Sandboxes ready for use."""
        return len(self._idle)

    @property
    def held(self) -> int:
        """Bytes declared by all that is in use, idle or in the making."""
        return self._held

    def request(self, size: int | None = None) -> asyncio.Future[Grant[IdleT]]:
        """Queue for a place and `size` bytes for a sandbox of one's own (None: an idle one, or one like it).

        Who stops waiting for it must `withdraw` it.
        """
        granted: asyncio.Future[Grant[IdleT]] = asyncio.get_running_loop().create_future()
        self._queue.append((size, granted))
        self._serve()
        return granted

    def withdraw(self, granted: asyncio.Future[Grant[IdleT]]) -> Grant[IdleT] | None:
        """Give up a request; a grant that came too late to be noticed is the caller's to end and leave."""
        if granted.cancel() or granted.cancelled():
            self._serve()
            return None
        return granted.result() if granted.exception() is None else None

    def leave(self, grant: Grant[IdleT], *, idle: IdleT | None = None) -> None:
        """Give a place back; `idle` is a sandbox of `unit` bytes that is ready for another use."""
        self._in_use -= 1
        if idle is None:
            self._held -= grant.size
        else:
            self._idle.append(idle)
        self._serve()

    def reserve(self, wanted: int) -> bool:
        """Room for one more idle sandbox, if fewer than `wanted` are idle and the first request can spare it.

        Ends with `stock` or `forgo`.
        """
        ahead = next((size or 0 for size, granted in self._queue if not granted.done()), 0)
        if self.idle >= wanted or self._held + ahead + self._unit > self.budget:
            return False
        self._held += self._unit
        return True

    def stock(self, idle: IdleT) -> None:
        """The sandbox that room was reserved for is ready."""
        self._idle.append(idle)
        self._serve()

    def forgo(self) -> None:
        """The sandbox that room was reserved for cannot be made."""
        self._held -= self._unit
        self._serve()

    def refuse(self, reason: str) -> None:
        """Fail all who wait with a SandboxError."""
        while self._queue:
            _, granted = self._queue.popleft()
            if not granted.done():
                granted.set_exception(SandboxError(reason))

    def drain(self) -> list[IdleT]:
        """The idle sandboxes, no longer on the books."""
        idle, self._idle = list(self._idle), deque()
        self._held -= self._unit * len(idle)
        return idle

    def _serve(self) -> None:
        while self._queue and self._in_use < self.places:
            size, granted = self._queue[0]
            if not granted.done():
                needed = self._unit if size is None else size
                if self._held - self._unit * self.idle + needed > self.budget:
                    return
                granted.set_result(self._grant(size))
            self._queue.popleft()

    def _grant(self, size: int | None) -> Grant[IdleT]:
        self._in_use += 1
        if size is None and self._idle:
            return Grant(self._unit, ready=self._idle.popleft())
        needed = self._unit if size is None else size
        self._held += needed
        spared: list[IdleT] = []
        while self._held > self.budget:
            spared.append(self._idle.popleft())
            self._held -= self._unit
        return Grant(needed, spared=tuple(spared))
