"""The sandboxes of an open pool: made, kept ready, handed out, used again or ended, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox.admission import Admission, Grant, declared_bytes
from atropos_agent.sandbox.backends import Launcher, Slot, launch
from atropos_agent.sandbox.protocol import Isolation, SandboxSpec
from atropos_agent.sandbox.remedy import cure_of_launch
from atropos_agent.sandbox.requirements import explained, unmet
from atropos_agent.telemetry import Entry, Phase

ResultT = TypeVar("ResultT")
_CLOSED = "the sandbox pool was closed"
_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Member:
    """One sandbox of the pool."""

    slot: Slot
    uses: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """A sandbox in use. `since` is of time.monotonic; `own`: it was made for this caller alone."""

    member: Member
    grant: Grant[Member]
    owner: str
    own: bool
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment. `lost` sandboxes were found dead; they are among those `destroyed`."""

    waiting: int = 0
    in_use: int = 0
    idle: int = 0
    created: int = 0
    destroyed: int = 0
    lost: int = 0


class Supply:
    """Serves sandboxes in the order of the queue: idle ones, or new ones.

    All work that is begun here also ends here: a cancelled caller leaves no sandbox and no place behind.
    """

    def __init__(
        self,
        launcher: Launcher,
        spec: SandboxSpec,
        admission: Admission[Member],
        *,
        min_idle: int,
        max_uses: int,
    ) -> None:
        self.admission = admission
        self._launcher = launcher
        self._spec = spec
        self._min_idle = min(min_idle, admission.places)
        self._max_uses = max_uses
        self._leases: list[Lease] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refill: asyncio.Task[None] | None = None
        self._shutting: asyncio.Task[None] | None = None
        self._created = self._destroyed = self._lost = 0

    @property
    def isolation(self) -> Isolation:
        """What the sandboxes enforce."""
        return self._launcher.isolation

    @property
    def stats(self) -> PoolStats:
        """The counts now."""
        queue = self.admission
        return PoolStats(queue.waiting, queue.in_use, queue.idle, self._created, self._destroyed, self._lost)

    @property
    def oldest(self) -> Lease | None:
        """The sandbox that has been in use for longest."""
        return self._leases[0] if self._leases else None

    @property
    def closed(self) -> bool:
        """True from the moment `close` was called."""
        return self._shutting is not None

    def begin(self, first: Slot) -> None:
        """Take over the sandbox that proved the launcher, and get more ready."""
        self._created += 1
        if self.admission.reserve(1):
            self.admission.stock(Member(first))
        self._start_refill()

    async def take(self, entry: Entry, spec: SandboxSpec | None) -> Lease:
        """The next sandbox, for `entry.owner`. With a `spec`, it is made for this caller alone.

        Raises SandboxError; SandboxUnavailable where this backend does not hold what `spec` requires.
        """
        if self.closed:
            raise SandboxError(_CLOSED)
        request = self.admission.request(None if spec is None else declared_bytes(spec))
        try:
            grant = await request
        except asyncio.CancelledError:
            if (late := self.admission.withdraw(request)) is not None:
                self._track(self._void(late))
            raise
        entry.enter(Phase.STARTING)
        work = self._track(self._equip(grant, entry.owner, spec))
        try:
            lease = await asyncio.shield(work)
        except asyncio.CancelledError:
            self._track(self._abandon(work))
            raise
        entry.enter(Phase.IN_USE)
        return lease

    async def give_back(self, lease: Lease) -> None:
        """Empty the sandbox for another use, or end it; also where the caller is cancelled meanwhile."""
        await asyncio.shield(self._track(self._return(lease)))

    async def close(self) -> None:
        """End every sandbox, idle, in use or in the making, and the launcher. Idempotent.

        Also where the caller is cancelled meanwhile, unless he is so twice.
        """
        if self._shutting is None:
            self.admission.refuse(_CLOSED)
            self._shutting = asyncio.create_task(self._shut())
        try:
            await asyncio.shield(self._shutting)
        finally:
            if not self._shutting.done():
                await asyncio.wait([self._shutting])

    async def _shut(self) -> None:
        await asyncio.gather(*(lease.member.slot.close() for lease in self._leases))
        await self._end(self.admission.drain())
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._launcher.close()

    async def _equip(self, grant: Grant[Member], owner: str, spec: SandboxSpec | None) -> Lease:
        try:
            member = grant.ready
            if member is None or not member.slot.alive or self.closed:
                await self._end(grant.idle)
                member = Member(await self._launch(spec))
        except BaseException:
            self._leave(grant)
            raise
        lease = Lease(member, grant, owner, own=spec is not None)
        self._leases.append(lease)
        self._start_refill()
        return lease

    async def _abandon(self, work: asyncio.Task[Lease]) -> None:
        """Return the sandbox of a caller that was cancelled while it was prepared."""
        with contextlib.suppress(SandboxError):
            await self._return(await work)

    async def _void(self, grant: Grant[Member]) -> None:
        """Undo a grant whose caller was cancelled."""
        try:
            await self._end(grant.idle)
        finally:
            self._leave(grant)

    async def _return(self, lease: Lease) -> None:
        kept = False
        try:
            kept = await self._fit_again(lease)
            if not kept:
                await self._end([lease.member])
        finally:
            self._leases.remove(lease)
            self._leave(lease.grant, idle=lease.member if kept else None)

    async def _fit_again(self, lease: Lease) -> bool:
        lease.member.uses += 1
        if lease.own or lease.member.uses >= self._max_uses or self.closed:
            return False
        try:
            return await lease.member.slot.reset() and not self.closed
        except SandboxError:
            return False

    def _leave(self, grant: Grant[Member], *, idle: Member | None = None) -> None:
        self.admission.leave(grant, idle=idle)
        self._start_refill()

    def _start_refill(self) -> None:
        if not self.closed and (self._refill is None or self._refill.done()):
            self._refill = self._track(self._fill())

    async def _fill(self) -> None:
        """Keep a few sandboxes ready. A failure that lasts is raised at the next acquire."""
        while not self.closed and self.admission.reserve(self._min_idle):
            try:
                slot = await self._launch(None)
            except BaseException as error:
                self.admission.forgo()
                if not isinstance(error, SandboxError):
                    raise
                if not self.closed:
                    _logger.warning("no sandbox could be got ready: %s", error)
                return
            self.admission.stock(Member(slot))

    async def _launch(self, spec: SandboxSpec | None) -> Slot:
        if self.closed:
            raise SandboxError(_CLOSED)
        try:
            slot = await launch(self._launcher, spec or self._spec)
        except SandboxError:
            raise
        except OSError as error:
            raise SandboxError(f"a sandbox cannot be launched: {error}{cure_of_launch(error)}") from error
        self._created += 1
        missing = {} if spec is None else unmet(spec.require, slot.isolation)
        if missing or self.closed:
            await self._end([Member(slot)])
            raise SandboxUnavailable(explained(missing, slot.isolation)) if missing else SandboxError(_CLOSED)
        return slot

    async def _end(self, members: Sequence[Member]) -> None:
        await asyncio.gather(*(self._end_one(member.slot) for member in members))

    async def _end_one(self, slot: Slot) -> None:
        if not slot.alive and not self.closed:
            self._lost += 1
        try:
            await slot.close()
        finally:
            self._destroyed += 1

    def _track(self, work: Coroutine[Any, Any, ResultT]) -> asyncio.Task[ResultT]:
        """Run `work` to its end, also if the caller is cancelled; `close` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
