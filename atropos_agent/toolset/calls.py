"""Runs the calls of one step: each within its time limit, side by side where every tool allows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from atropos_agent.errors import SandboxLost, is_failure
from atropos_agent.telemetry import Entry, Kind
from atropos_agent.toolset.tool import ExecuteTool, ToolContext, failure
from atropos_agent.trajectory import ToolCall, ToolResult

TOOL_GRACE_S = 1.0
"""Grace period between a tool's deadline and its cancellation: a tool that returns by itself keeps its
sandbox usable."""


class OutOfTime(Exception):
    """A call did not return before the whole rollout's own time was over."""


async def run_call(
    call: ToolCall,
    execute: ExecuteTool,
    context_until: Callable[[float], ToolContext],
    *,
    owner: str,
    timeout_s: float,
    deadline: float,
    step_number: int,
) -> ToolResult:
    """Run one call for `timeout_s` seconds at most. Raises SandboxLost, and OutOfTime where the rollout's
    `deadline`, in the event loop's time, came first; any other error becomes a result for the policy.
    `context_until` makes the call's context from its own deadline."""
    own = asyncio.get_running_loop().time() + timeout_s
    limit = min(own, deadline)
    scope = asyncio.timeout_at(limit + TOOL_GRACE_S)
    entry = Entry(Kind.TOOL, call.name, owner=owner, step=step_number, detail=call.arguments)
    with entry:
        try:
            async with scope:
                return await execute(call, context_until(limit))
        except SandboxLost:
            raise
        except BaseException as error:  # the boundary to tools and to a caller's own `execute_tool`
            if not is_failure(error):
                raise
            if not (isinstance(error, TimeoutError) and scope.expired()):
                return failure(f"Tool execution error: {type(error).__name__}: {error}")
    if deadline < own:
        raise OutOfTime
    return failure(f"{call.name} did not return within {timeout_s:g} s")


async def side_by_side(running: Sequence[Coroutine[object, object, None]]) -> None:
    """Run all at once. The first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in running:
                group.create_task(one)
    except ExceptionGroup as failures:
        raise _first(failures) from None


def _first(failures: ExceptionGroup) -> Exception:
    found: Exception = failures
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found
