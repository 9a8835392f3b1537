"""The queue and the books of a pool, driven step by step over launches that end when they are told to."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox import SandboxSpec
from atropos_agent.sandbox.admission import Admission, declared_bytes
from atropos_agent.sandbox.supply import Supply
from atropos_agent.telemetry import Entry, Kind, Phase
from tests.sandbox.fake_launcher import FakeLauncher

SPEC = SandboxSpec()
UNIT = declared_bytes(SPEC)
PLACES, BUDGET, MIN_IDLE, MAX_USES = 3, 6 * UNIT, 2, 2


def larger(units):
    """A spec that declares `units` times what the pool's own does."""
    return replace(SPEC, memory_bytes=SPEC.memory_bytes + (units - 1) * UNIT)


async def settled():
    for _ in range(25):
        await asyncio.sleep(0)


class Rollout:
    """One caller: waits, holds until `released`, gives back."""

    def __init__(self, supply, spec):
        self.size = None if spec is None else declared_bytes(spec)
        self.entry = Entry(Kind.SANDBOX, "fake", phase=Phase.QUEUED)
        self.released = asyncio.Event()
        self.lease = None
        self.task = asyncio.get_running_loop().create_task(self.run(supply, spec))

    async def run(self, supply, spec):
        self.lease = await supply.take(self.entry, spec)
        assert self.lease.member.slot.uses < (1 if spec else MAX_USES)
        self.lease.member.slot.uses += 1
        try:
            await self.released.wait()
        finally:
            lease, self.lease = self.lease, None
            await supply.give_back(lease)

    @property
    def is_queued(self):
        return not self.task.done() and self.entry.phase is Phase.QUEUED


class PoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.launcher = FakeLauncher(SPEC)
        self.rollouts = []
        self.do(self.open())

    def do(self, work=None):
        async def run():
            result = await work if work is not None else None
            await settled()
            return result

        return self.loop.run_until_complete(run())

    async def open(self):
        first = asyncio.create_task(self.launcher.launch())
        await asyncio.sleep(0)
        self.launcher.pending[0][1].set_result(None)
        books = Admission(places=PLACES, budget=BUDGET, unit=UNIT)
        self.supply = Supply(self.launcher, SPEC, books, min_idle=MIN_IDLE, max_uses=MAX_USES)
        self.supply.begin(await first)

    @property
    def books(self):
        return self.supply.admission

    def held(self):
        return [rollout for rollout in self.rollouts if rollout.lease is not None]

    @rule(units=st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=3))
    def acquire(self, units):
        async def begin():
            for unit in units:
                self.rollouts.append(Rollout(self.supply, None if unit is None else larger(unit)))

        self.do(begin())

    @precondition(lambda self: self.launcher.pending)
    @rule(which=st.integers(0, 5), fails=st.sampled_from([False, False, False, SandboxError, OSError]))
    def end_a_launch(self, which, fails):
        _, told = self.launcher.pending[which % len(self.launcher.pending)]
        told.set_exception(fails("no")) if fails else told.set_result(None)
        self.do()

    @precondition(lambda self: self.held())
    @rule(which=st.integers(0, 5), fit=st.booleans())
    def release(self, which, fit):
        rollout = self.held()[which % len(self.held())]
        rollout.lease.member.slot.fit = fit
        rollout.released.set()
        self.do()

    @precondition(lambda self: self.rollouts)
    @rule(which=st.integers(0, 30), steps=st.integers(0, 5), launched=st.booleans())
    def cancel(self, which, steps, launched):
        """At any moment: also while a grant, or a launch, has just come and is not noticed yet."""

        async def interrupt():
            rollout = self.rollouts[which % len(self.rollouts)]
            rollout.released.set()
            if launched and self.launcher.pending:
                self.launcher.pending[0][1].set_result(None)
            for _ in range(steps):
                await asyncio.sleep(0)
            rollout.task.cancel()

        self.do(interrupt())

    @precondition(lambda self: self.launcher.living)
    @rule(which=st.integers(0, 5))
    def lose(self, which):
        self.launcher.living[which % len(self.launcher.living)].alive = False

    @invariant()
    def nothing_exceeds_the_budget(self):
        pending = sum(size for size, _ in self.launcher.pending)
        assert sum(slot.size for slot in self.launcher.living) + pending <= self.books.held <= BUDGET
        assert self.books.in_use <= PLACES

    @invariant()
    def nobody_overtakes(self):
        waiting = [rollout.is_queued for rollout in self.rollouts if not rollout.task.done()]
        assert waiting == sorted(waiting)
        assert self.supply.stats.waiting == sum(waiting)

    @invariant()
    def who_is_first_waits_for_a_reason(self):
        first = next((rollout for rollout in self.rollouts if rollout.is_queued), None)
        if first is not None and self.books.in_use < PLACES:
            assert self.books.held - self.books.idle * UNIT + (first.size or UNIT) > BUDGET

    @invariant()
    def at_rest_the_counts_agree(self):
        stats = self.supply.stats
        assert stats.lost <= stats.destroyed <= stats.created
        assert stats.created - stats.destroyed == len(self.launcher.living)
        if not self.launcher.pending:
            assert len(self.launcher.living) == stats.idle + stats.in_use == stats.idle + len(self.held())
            assert stats.idle <= PLACES + MIN_IDLE

    @invariant()
    def failures_are_typed(self):
        for rollout in self.rollouts:
            if rollout.task.done() and not rollout.task.cancelled():
                error = rollout.task.exception()
                assert error is None or isinstance(error, SandboxError), error

    def teardown(self):
        self.everybody_is_served()
        self.do(self.supply.close())
        assert self.launcher.closed
        assert self.supply.stats.created == self.supply.stats.destroyed
        self.loop.close()

    def everybody_is_served(self):
        for _ in range(2 * len(self.rollouts) + 2):
            for _, told in list(self.launcher.pending):
                told.set_result(None)
            for rollout in self.held():
                rollout.released.set()
            self.do()
            if not self.launcher.pending and all(rollout.task.done() for rollout in self.rollouts):
                break
        stats = self.supply.stats
        assert (stats.waiting, stats.in_use) == (0, 0)
        assert not [rollout for rollout in self.rollouts if not rollout.task.done()]


class ClosedMachine(PoolMachine):
    """The same, but closed at any moment."""

    def teardown(self):
        async def close():
            closing = asyncio.create_task(self.supply.close())
            while not closing.done():
                await settled()
                for _, told in list(self.launcher.pending):
                    told.set_result(None)
                for rollout in self.held():
                    rollout.released.set()
            await closing

        self.do(close())
        stats = self.supply.stats
        assert (stats.waiting, stats.in_use, stats.idle) == (0, 0, 0)
        assert stats.created == stats.destroyed
        assert all(rollout.task.done() for rollout in self.rollouts)
        self.failures_are_typed()
        self.loop.close()


async def opened(*, places):
    launcher = FakeLauncher(SPEC, at_once=True)
    supply = Supply(
        launcher, SPEC, Admission(places=places, budget=BUDGET, unit=UNIT), min_idle=0, max_uses=1
    )
    supply.begin(await launcher.launch())
    return supply


async def test_who_is_cancelled_as_his_turn_comes_leaves_place_and_sandbox():
    supply = await opened(places=1)
    first = await supply.take(Entry(Kind.SANDBOX, "fake"), None)
    second = Rollout(supply, None)
    await settled()
    supply.admission.leave(first.grant, idle=first.member)
    second.task.cancel()
    await settled()
    assert second.task.cancelled()
    assert (supply.stats.in_use, supply.stats.idle, supply.stats.destroyed) == (0, 0, 1)
    assert (await supply.take(Entry(Kind.SANDBOX, "fake"), None)).member.slot.alive
    await supply.close()


async def test_a_failed_refill_is_raised_at_the_next_acquire_and_forgotten_when_it_passes():
    supply = await opened(places=2)
    supply._launcher.failure = SandboxUnavailable("no more namespaces")
    first = Rollout(supply, None)
    second = Rollout(supply, None)
    await settled()
    assert first.lease is not None
    with pytest.raises(SandboxUnavailable, match="no more namespaces"):
        await second.task
    supply._launcher.failure = None
    third = Rollout(supply, None)
    await settled()
    assert third.lease is not None
    first.released.set()
    third.released.set()
    await settled()
    assert (supply.stats.in_use, supply.stats.created) == (0, 2)
    await supply.close()


few = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestServedInTheEnd = PoolMachine.TestCase
TestClosedAtAnyMoment = ClosedMachine.TestCase
TestServedInTheEnd.settings = few
TestClosedAtAnyMoment.settings = few
