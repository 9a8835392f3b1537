"""The typed events of a run: numbered without gaps, pushed to any number of listeners, no cost without one.

A listener is a function or a coroutine function of one Event. A function is called at once. A coroutine
function gets its events from its own buffer, so a slow one never delays the run. A listener that raises is
logged once and dropped; the run and the other listeners continue.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from atropos_agent.trajectory import AgentResult, Json

logger: logging.Logger = logging.getLogger(__name__)

BUFFERED_EVENTS = 256
"""Events that may wait for one asynchronous listener. With more, adjacent deltas are merged."""
DRAIN_S = 0.5
"""How long the end of a run waits for asynchronous listeners: its sandbox is held meanwhile."""


class EventType(StrEnum):
    """What happened. `run.finished` is emitted exactly once, also after an error, a timeout or a cancel."""

    RUN_STARTED = "run.started"
    TURN_STARTED = "turn.started"
    STEP_STARTED = "step.started"
    COMPLETION_DELTA = "completion.delta"
    COMPLETION_FINISHED = "completion.finished"
    THOUGHT = "thought"
    TOOL_PERMISSION = "tool.permission"
    TOOL_STARTED = "tool.started"
    TOOL_ACTIVITY = "tool.activity"
    TOOL_FINISHED = "tool.finished"
    STEP_FINISHED = "step.finished"
    TURN_FINISHED = "turn.finished"
    RUN_FINISHED = "run.finished"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `sequence` counts from 0 within the run; `timestamp` is Unix time in seconds.

    `call_id` is set on tool events; `result` on `run.finished`. A merged delta stands for the events from
    `sequence` to `last_sequence`; on all others both are equal.
    """

    type: EventType
    run_id: str
    sequence: int
    timestamp: float
    step_number: int | None = None
    call_id: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict[str, Json])
    result: AgentResult | None = None
    last_sequence: int = -1

    def __post_init__(self) -> None:
        if self.last_sequence < 0:
            object.__setattr__(self, "last_sequence", self.sequence)


Listener: TypeAlias = Callable[[Event], None] | Callable[[Event], Awaitable[None]]


class Emitter:
    """Numbers the events of one run and hands them to its listeners."""

    __slots__ = ("_closed", "_run_id", "_sequence", "_sinks")

    def __init__(self, run_id: str, listeners: Sequence[Listener] = ()) -> None:
        self._run_id = run_id
        self._sequence = 0
        self._closed = False
        self._sinks: list[_Direct | _Buffered] = [_sink(listener) for listener in listeners]

    @property
    def active(self) -> bool:
        """True if there is a listener. Check it before you build costly `data`."""
        return bool(self._sinks)

    def emit(
        self,
        type: EventType,
        *,
        step_number: int | None = None,
        call_id: str | None = None,
        data: Mapping[str, Json] | None = None,
        result: AgentResult | None = None,
    ) -> None:
        """Push one event; does nothing without a listener, and after `run.finished`."""
        if not self._sinks or self._closed:
            return
        self._closed = type is EventType.RUN_FINISHED
        number, self._sequence = self._sequence, self._sequence + 1
        event = Event(type, self._run_id, number, time.time(), step_number, call_id, data or {}, result)
        for sink in tuple(self._sinks):  # a copy: the loop removes sinks whose listener raised
            if not sink.take(event):
                self._sinks.remove(sink)

    async def drain(self) -> None:
        """Wait until the asynchronous listeners have received every event, for at most DRAIN_S seconds.

        One that is late gets `run.finished` next, and none of the events before it.
        """
        waiting = {sink.task: sink for sink in self._sinks if isinstance(sink, _Buffered) and sink.task}
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=DRAIN_S)
        for task in late:
            left_out = waiting[task].keep_last()
            logger.warning("run %s: a slow listener misses the last %d events", self._run_id, left_out)


def _sink(listener: Listener) -> _Direct | _Buffered:
    # iscoroutinefunction is False for an object whose `__call__` is async: look at its `__call__`
    called = getattr(listener, "__call__", listener)  # noqa: B004
    is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(called)
    return _Buffered(listener) if is_async else _Direct(listener)


class _Direct:
    """A listener that is called at once."""

    __slots__ = ("_listener",)

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def take(self, event: Event) -> bool:
        """Call the listener with `event`. False if it raised: drop it."""
        try:
            answer = self._listener(event)
            if inspect.iscoroutine(answer):  # e.g. a lambda around a coroutine function
                answer.close()
                raise TypeError("a listener that returns a coroutine must be declared with `async def`")
        except Exception:
            _log_dropped(self._listener, event)
            return False
        return True


class _Buffered:
    """A coroutine function, called by a task that lives while events wait for it."""

    __slots__ = ("_failed", "_listener", "_waiting", "task")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: deque[Event] = deque()
        self._failed = False
        self.task: asyncio.Task[None] | None = None

    def take(self, event: Event) -> bool:
        """Put `event` into the buffer. False if the listener raised before: drop it."""
        if self._failed:
            return False
        full = len(self._waiting) >= BUFFERED_EVENTS
        if full and _are_one_delta(self._waiting[-1], event):
            self._waiting[-1] = _merged(self._waiting[-1], event)
        else:
            self._waiting.append(event)
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._feed())
        return True

    def keep_last(self) -> int:
        """Drop all events that wait but the last one. Returns how many were dropped."""
        dropped = len(self._waiting) - 1
        while len(self._waiting) > 1:
            self._waiting.popleft()
        return max(dropped, 0)

    async def _feed(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            try:
                answer = self._listener(event)
                if answer is not None:
                    await answer
            except Exception:
                self._failed = True
                self._waiting.clear()
                _log_dropped(self._listener, event)


def _merged(first: Event, second: Event) -> Event:
    """Two adjacent deltas of one step as one."""
    text = f"{first.data.get('text', '')}{second.data.get('text', '')}"
    return replace(first, data={**first.data, "text": text}, last_sequence=second.last_sequence)


def _are_one_delta(first: Event, second: Event) -> bool:
    both = first.type is second.type is EventType.COMPLETION_DELTA
    return both and first.step_number == second.step_number


def _log_dropped(listener: Listener, event: Event) -> None:
    name = getattr(listener, "__qualname__", type(listener).__name__)
    logger.exception("listener %s raised on %s and gets no further events", name, event.type.value)
