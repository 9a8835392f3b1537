"""The typed events of a run: pushed to one listener, numbered without gaps, free without a listener."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from atropos_agent.trajectory import AgentResult, Json


class EventType(StrEnum):
    """What happened. `run.finished` comes exactly once, also after an error, a timeout or a cancel."""

    RUN_STARTED = "run.started"
    STEP_STARTED = "step.started"
    COMPLETION_FINISHED = "completion.finished"
    TOOL_STARTED = "tool.started"
    TOOL_FINISHED = "tool.finished"
    STEP_FINISHED = "step.finished"
    RUN_FINISHED = "run.finished"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `sequence` counts from 0 within the run; `timestamp` is Unix time in seconds.

    `call_id` is set on tool events; `result` on `run.finished` (None after a cancel).
    """

    type: EventType
    run_id: str
    sequence: int
    timestamp: float
    step_number: int | None = None
    call_id: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict[str, Json])
    result: AgentResult | None = None


Listener: TypeAlias = Callable[[Event], None]


class Emitter:
    """Numbers the events of one run and hands them to its listener, if there is one."""

    __slots__ = ("_listener", "_run_id", "_sequence")

    def __init__(self, run_id: str, listener: Listener | None) -> None:
        self._run_id = run_id
        self._listener = listener
        self._sequence = 0

    @property
    def active(self) -> bool:
        """True where somebody listens; guard the making of costly `data` with it."""
        return self._listener is not None

    def emit(
        self,
        type: EventType,
        *,
        step_number: int | None = None,
        call_id: str | None = None,
        data: Mapping[str, Json] | None = None,
        result: AgentResult | None = None,
    ) -> None:
        """Push one event; does nothing without a listener."""
        if self._listener is None:
            return
        number, self._sequence = self._sequence, self._sequence + 1
        self._listener(
            Event(type, self._run_id, number, time.time(), step_number, call_id, data or {}, result)
        )
