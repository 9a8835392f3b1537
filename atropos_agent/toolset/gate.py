"""The gate: the caller's decision on each call of a step, before any of them starts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from atropos_agent.errors import is_failure
from atropos_agent.toolset.bounds import MAX_OBSERVATION_CHARS, bounded
from atropos_agent.toolset.tool import failure
from atropos_agent.trajectory import Json, ToolCall, ToolResult

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Allow:
    """The call runs as the policy wrote it."""


@dataclass(frozen=True, slots=True)
class Deny:
    """The call does not run; the policy reads why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """The call runs with these arguments. They are checked like those of the policy."""

    arguments: Mapping[str, Json]


Decision: TypeAlias = Allow | Deny | Replace
Gate: TypeAlias = Callable[[ToolCall], Awaitable[Decision]]
Verdict: TypeAlias = ToolCall | ToolResult
"""The call that is to run, or the result of one that is not."""


async def decide(gate: Gate | None, calls: Sequence[ToolCall]) -> list[Verdict]:
    """One verdict for each of `calls`: the gate is asked in their order, one after the other.

    Without a gate all are allowed. If the gate raises or returns anything but a decision, the call is denied
    and the error is logged. A cancellation of the run propagates.
    """
    if gate is None:
        return list(calls)
    return [await _verdict(gate, call) for call in calls]


async def _verdict(gate: Gate, call: ToolCall) -> Verdict:
    try:
        return _as_verdict(await gate(call), call)
    except BaseException as error:  # the boundary to the caller's gate: without permission no call runs
        if not is_failure(error):
            raise
        _log.exception("the gate failed on the call %s of %s; it is denied", call.uniq_id, call.name)
        return _denied(call, f"the gate failed: {type(error).__name__}: {error}")


def _as_verdict(decision: Decision, call: ToolCall) -> Verdict:
    match decision:
        case Allow():
            return call
        case Replace(arguments):
            return replace(call, arguments=arguments)
        case Deny(reason):
            return _denied(call, reason)
        case other:
            raise TypeError(f"it gave {other!r}; Allow(), Deny(reason), Replace(arguments) are possible")


def _denied(call: ToolCall, reason: str) -> ToolResult:
    return bounded(failure(f"Call denied: {reason}"), call, MAX_OBSERVATION_CHARS)
