"""Fan-out of events: many listeners, failing ones, slow ones."""

import asyncio
import logging

import pytest

from atropos_agent import events
from atropos_agent.events import Emitter, Event, EventType
from tests.agent.test_agent import CALL, agent


async def test_any_number_of_listeners_get_the_same_events():
    first, second, third = [], [], []

    async def slow(event: Event) -> None:
        await asyncio.sleep(0)
        third.append(event)

    subject, _ = agent([CALL, "done"])
    await subject.run("do it", listeners=[first.append, second.append, slow])
    assert first == second == third
    assert [event.sequence for event in first] == list(range(len(first)))
    assert [event.type for event in first].count(EventType.RUN_FINISHED) == 1


async def test_the_events_of_a_run_come_in_order():
    seen = []
    subject, _ = agent(["<think>\nhm\n</think>\n" + CALL, "done"])
    await subject.run("do it", listeners=[lambda event: seen.append(event.type.value)])
    assert seen == [
        "run.started",
        "turn.started",
        "step.started",
        "completion.finished",
        "thought",
        "tool.started",
        "tool.finished",
        "step.finished",
        "step.started",
        "completion.finished",
        "turn.finished",
        "run.finished",
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_listener_that_raises_is_logged_once_and_dropped_and_the_run_goes_on(asynchronous, caplog):
    told, kept = [], []

    def broken(event: Event) -> None:
        told.append(event)
        raise ValueError("no such luck")

    async def broken_later(event: Event) -> None:
        broken(event)

    subject, _ = agent([CALL, "done"])
    with caplog.at_level(logging.ERROR, logger="atropos_agent.events"):
        result = await subject.run("do it", listeners=[broken_later if asynchronous else broken, kept.append])
    assert result.success
    assert len(told) == 1
    assert kept[-1].type is EventType.RUN_FINISHED
    assert len(caplog.records) == 1


async def test_deltas_are_merged_where_a_listener_is_slow_and_their_range_is_kept(monkeypatch):
    monkeypatch.setattr(events, "BUFFERED_EVENTS", 4)
    taken: list[Event] = []
    release = asyncio.Event()

    async def slow(event: Event) -> None:
        await release.wait()
        taken.append(event)

    emitter = Emitter("r", [slow])
    for number in range(50):
        emitter.emit(EventType.COMPLETION_DELTA, step_number=1, data={"text": f"{number} "})
    emitter.emit(EventType.COMPLETION_FINISHED, step_number=1)
    release.set()
    await emitter.drain()
    assert len(taken) < 10
    assert "".join(str(event.data.get("text", "")) for event in taken) == "".join(f"{n} " for n in range(50))
    assert taken[0].sequence == 0
    assert [after.sequence for after in taken[1:]] == [before.last_sequence + 1 for before in taken[:-1]]
    assert taken[-1].type is EventType.COMPLETION_FINISHED


async def test_deltas_of_two_steps_are_not_merged(monkeypatch):
    monkeypatch.setattr(events, "BUFFERED_EVENTS", 1)
    taken: list[Event] = []

    async def listen(event: Event) -> None:
        taken.append(event)

    emitter = Emitter("r", [listen])
    for step in (1, 1, 2, 2):
        emitter.emit(EventType.COMPLETION_DELTA, step_number=step, data={"text": "x"})
    await emitter.drain()
    assert [(event.step_number, event.data["text"]) for event in taken] == [(1, "xx"), (2, "xx")]


async def test_a_run_does_not_wait_for_ever_for_a_listener(monkeypatch, caplog):
    monkeypatch.setattr(events, "DRAIN_S", 0.05)

    async def stuck(event: Event) -> None:
        await asyncio.sleep(60)

    subject, _ = agent(["done"])
    assert (await subject.run("do it", listeners=[stuck])).success
    assert "a slow listener misses the last" in caplog.text


def test_without_a_listener_nothing_is_made():
    emitter = Emitter("r")
    emitter.emit(EventType.RUN_STARTED)
    assert not emitter.active
