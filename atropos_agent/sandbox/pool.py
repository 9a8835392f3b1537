"""A bounded supply of sandboxes: each is used by one rollout at a time, by default by one alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from atropos_agent.errors import ConfigError, SandboxBusy, SandboxError
from atropos_agent.sandbox.admission import Admission, Budget, declared_bytes, in_gib
from atropos_agent.sandbox.backends import check_backend, open_backend
from atropos_agent.sandbox.container import check_image
from atropos_agent.sandbox.protocol import Isolation, Sandbox, SandboxSpec
from atropos_agent.sandbox.requirements import check_requirements
from atropos_agent.sandbox.supply import Lease, Member, PoolStats, Supply
from atropos_agent.telemetry import Entry, Kind, Phase


class SandboxPool:
    """Sandboxes of one spec, at most `size` in use at once; who waits is served strictly in order.

    `backend` is "auto" (native, then bubblewrap), "native", "bubblewrap", "docker" or "podman" (which run
    `spec.image`), or "local" (no isolation at all).
    `min_idle` are kept ready; one that served `max_uses` times, or cannot be emptied, is ended. What all
    sandboxes declare together (`memory_bytes`, `workspace_bytes`, /tmp and /dev/shm) stays within
    `overcommit` times the memory of the machine, or of our own cgroup.

    An async context manager, bound to the event loop it is entered in. Entering raises SandboxUnavailable
    where the isolation, or what `spec.require` says, cannot be had; leaving ends every process of the pool.
    """

    def __init__(
        self,
        backend: str = "auto",
        spec: SandboxSpec | None = None,
        size: int = 16,
        *,
        min_idle: int = 4,
        max_uses: int = 1,
        overcommit: float = 4.0,
    ) -> None:
        """Raises ConfigError for an unknown backend or requirement, or a number out of range."""
        check_backend(backend)
        _check_numbers(size=size, min_idle=min_idle, max_uses=max_uses, overcommit=overcommit)
        self._backend = backend
        self._spec = spec or SandboxSpec()
        check_image(backend, self._spec)
        check_requirements(self._spec.require)
        self._size = size
        self._min_idle = min_idle
        self._max_uses = max_uses
        self._overcommit = overcommit
        self._supply: Supply | None = None

    @property
    def isolation(self) -> Isolation:
        """What the sandboxes of this pool enforce. Raises SandboxError while the pool is not open."""
        return self._opened().isolation

    @property
    def stats(self) -> PoolStats:
        """What is waited for, in use and idle now, and what came and went since the pool was opened."""
        return PoolStats() if self._supply is None else self._supply.stats

    async def __aenter__(self) -> Self:
        """Start the first backend that works, proven by one sandbox."""
        budget = Budget.of_this_machine(self._overcommit)
        budget.check(self._spec)
        launcher, first = await open_backend(self._backend, self._spec)
        admission = Admission[Member](places=self._size, budget=budget.bytes, unit=declared_bytes(self._spec))
        self._budget = budget
        self._supply = Supply(
            launcher, self._spec, admission, min_idle=self._min_idle, max_uses=self._max_uses
        )
        self._supply.begin(first)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        await self.close()

    async def close(self) -> None:
        """End every sandbox, idle or in use, and everything that served them. Idempotent."""
        if self._supply is not None:
            await self._supply.close()

    @contextlib.asynccontextmanager
    async def acquire(
        self, owner: str = "", *, spec: SandboxSpec | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[Sandbox]:
        """A sandbox for the length of the block: an empty one of the pool, or one made after `spec`.

        `owner` names who holds it in the in-flight table. Raises SandboxBusy after `timeout_s` seconds,
        SandboxUnavailable where `spec` never fits or requires what this backend does not hold, else
        SandboxError.
        """
        supply = self._opened()
        if spec is not None:
            check_image(self._backend, spec)
            check_requirements(spec.require)
            self._budget.check(spec)
        with Entry(Kind.SANDBOX, self._backend, owner=owner, phase=Phase.QUEUED, places=self._size) as entry:
            lease = await self._taken(supply, entry, spec, timeout_s)
            try:
                yield lease.member.slot
            finally:
                await supply.give_back(lease)

    async def _taken(
        self, supply: Supply, entry: Entry, spec: SandboxSpec | None, timeout_s: float | None
    ) -> Lease:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await supply.take(entry, spec)
        except TimeoutError:
            if not limit.expired():
                raise
            raise SandboxBusy(f"no sandbox within {timeout_s:g} s: {_busy(supply)}") from None

    def _opened(self) -> Supply:
        if self._supply is None or self._supply.closed:
            raise SandboxError("the sandbox pool is not open; use `async with SandboxPool(...) as pool`")
        return self._supply


def _busy(supply: Supply) -> str:
    """What holds the places, for a caller that waited too long."""
    queue, oldest = supply.admission, supply.oldest
    text = f"{queue.waiting} more wait, {queue.in_use} of {queue.places} are in use"
    if oldest is not None:
        held_s = time.monotonic() - oldest.since
        text += f", the oldest for {held_s:.1f} s{f' by {oldest.owner}' if oldest.owner else ''}"
    text += f"; {in_gib(queue.held)} of {in_gib(queue.budget)} are declared"
    return f"{text}; raise sandbox.slots, ask for less memory and workspace, or fix the code that keeps them"


def _check_numbers(*, size: int, min_idle: int, max_uses: int, overcommit: float) -> None:
    for name, value, least in (("size", size, 1), ("min_idle", min_idle, 0), ("max_uses", max_uses, 1)):
        if value < least:
            raise ConfigError(f"sandbox pool {name} is {value}; it must be at least {least}")
    if not overcommit > 0:
        raise ConfigError(f"sandbox pool overcommit is {overcommit}; it must be more than 0")
