"""Executes the calls of a step: asks the gate, runs them in order or side by side, reports events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import is_not
from typing import Protocol

from atropos_agent.agent.budget import Budget
from atropos_agent.agent.setting import Setting
from atropos_agent.errors import RecordError, ToolError
from atropos_agent.events import Emitter, EventType
from atropos_agent.record.checks import require_recordable
from atropos_agent.toolset import ToolContext, Verdict, decide, failure
from atropos_agent.toolset.calls import run_call, side_by_side
from atropos_agent.trajectory import Json, ToolCall, ToolResult, Trace

INTERRUPTED = "Interrupted before it returned."
"""The result of a call that was running beside one that ended the step."""


class Acting(Protocol):
    """The part of a step that its calls fill in."""

    number: int
    executed: tuple[ToolCall | None, ...]
    results: list[ToolResult]


class Actor:
    """Executes the calls of one run. Traces of other agents that calls report are appended to `traces`."""

    __slots__ = ("_budget", "_emitter", "_setting", "_traces")

    def __init__(self, setting: Setting, budget: Budget, emitter: Emitter, traces: list[Trace]) -> None:
        self._setting = setting
        self._budget = budget
        self._emitter = emitter
        self._traces = traces

    async def act(self, step: Acting, calls: Sequence[ToolCall]) -> None:
        """Fill in `step.results`, in call order. Raises OutOfTime, SandboxLost.

        The gate decides on all calls before the first one starts. The wait for the gate does not count
        against the run's time. The result of a denied call is the gate's reason.
        """
        verdicts = await self._decided(step.number, calls)
        if verdicts is not calls and any(map(is_not, verdicts, calls)):
            step.executed = tuple([_executed(verdict) for verdict in verdicts])
        if len(calls) > 1 and self._setting.tools.is_parallel(calls):
            await self._side_by_side(step, verdicts)
            return
        for verdict in verdicts:
            with self._budget.in_tools():
                result = await self._one(step.number, verdict)
            step.results.append(result)
            await self._delay()

    async def _decided(self, number: int, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        if self._setting.gate is None:
            return calls
        with self._budget.paused():
            verdicts = await decide(self._setting.gate, calls)
        for call, verdict in zip(calls, verdicts, strict=True) if self._emitter.active else ():
            self._emitter.emit(
                EventType.TOOL_PERMISSION,
                step_number=number,
                call_id=call.uniq_id,
                data=_permission(call, verdict),
            )
        return verdicts

    async def _side_by_side(self, step: Acting, verdicts: Sequence[Verdict]) -> None:
        results: dict[int, ToolResult] = {}

        async def one(index: int, verdict: Verdict) -> None:
            results[index] = await self._one(step.number, verdict)

        try:
            with self._budget.in_tools():
                await side_by_side([one(index, verdict) for index, verdict in enumerate(verdicts)])
        finally:
            # Results belong to calls by position: an interrupted call before a finished one needs one too.
            known = range(max(results, default=-1) + 1)
            step.results += [results.get(index) or failure(INTERRUPTED) for index in known]
        await self._delay()

    async def _one(self, number: int, verdict: Verdict) -> ToolResult:
        """Execute one call; a denied one has its result already."""
        if isinstance(verdict, ToolResult):
            return verdict
        call = verdict
        if self._emitter.active:
            data: dict[str, Json] = {"name": call.name, "arguments": call.arguments}
            self._emitter.emit(EventType.TOOL_STARTED, step_number=number, call_id=call.uniq_id, data=data)
        result = await run_call(
            call,
            self._setting.execute_tool,
            lambda deadline: self._context_of(number, call, deadline),
            owner=self._setting.rollout_id,
            timeout_s=self._setting.config.tool_timeout_s,
            deadline=self._budget.deadline,
            step_number=number,
        )
        if self._emitter.active:
            report: dict[str, Json] = {
                "success": result.success,
                "output": result.output,
                "error": result.error,
            }
            self._emitter.emit(EventType.TOOL_FINISHED, step_number=number, call_id=call.uniq_id, data=report)
        return result

    def _context_of(self, number: int, call: ToolCall, deadline: float) -> ToolContext:
        def emit(data: Mapping[str, Json]) -> None:
            self._emitter.emit(EventType.TOOL_ACTIVITY, step_number=number, call_id=call.uniq_id, data=data)

        def add_trace(trace: Trace) -> None:
            try:
                require_recordable(trace)
            except RecordError as error:  # found when the group is written, it would cost the whole run
                raise ToolError(f"the trace {trace.name!r} cannot be recorded: {error}") from error
            self._traces.append(replace(trace, parent_call=trace.parent_call or call.uniq_id))

        given = self._setting.context
        return ToolContext(  # not dataclasses.replace, which costs several times as much on every call
            sandbox=given.sandbox,
            rollout_id=given.rollout_id,
            call_id=call.uniq_id,
            deadline=deadline,
            emit=emit,
            add_trace=add_trace,
            deps=given.deps,
            sessions=given.sessions,
            jobs=given.jobs,
        )

    async def _delay(self) -> None:
        if self._setting.config.tool_delay_s:
            await asyncio.sleep(self._setting.config.tool_delay_s)


def _executed(verdict: Verdict) -> ToolCall | None:
    return verdict if isinstance(verdict, ToolCall) else None


def _permission(call: ToolCall, verdict: Verdict) -> dict[str, Json]:
    """The event data that reports the gate's decision."""
    if isinstance(verdict, ToolResult):
        return {"name": call.name, "decision": "deny", "reason": verdict.error}
    decision = "allow" if verdict is call else "replace"
    return {"name": call.name, "decision": decision, "arguments": verdict.arguments}
