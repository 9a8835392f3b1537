"""What a tool is, and what a call may use while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from atropos_agent.errors import ToolError
from atropos_agent.sandbox.protocol import Job, Sandbox, Session, SessionKind
from atropos_agent.trajectory import Json, ToolCall, ToolResult, ToolSchema, Trace


def _no_activity(activity: Mapping[str, Json]) -> None:
    """Ignore the report: the call belongs to no run that could emit it."""


def _no_traces(trace: Trace) -> None:
    raise ToolError(
        f"the trace {trace.name!r} is lost: no rollout collects the traces of this call; "
        "give its ToolContext an add_trace"
    )


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a call may use.

    `call_id` and `deadline` are set by the agent for each call. `deadline` is in the event loop's time, in
    seconds: a tool must return by then, and is cancelled soon after. `emit` reports what the running call
    does, as the data of an event. `add_trace` attaches the trace of another agent that the call ran; it
    raises ToolError where no rollout collects traces. `deps` is what the caller gives its own tools.
    `sessions`, and `jobs` by the name of their tool, are what tools keep between the calls of one rollout.
    """

    sandbox: Sandbox | None = None
    rollout_id: str = ""
    call_id: str = ""
    deadline: float | None = None
    emit: Callable[[Mapping[str, Json]], None] = _no_activity
    add_trace: Callable[[Trace], None] = _no_traces
    deps: object = None
    sessions: dict[SessionKind, Session] = field(default_factory=dict[SessionKind, Session], compare=False)
    jobs: dict[str, Job] = field(default_factory=dict[str, Job], compare=False)


ExecuteTool: TypeAlias = Callable[[ToolCall, ToolContext], Awaitable[ToolResult]]
"""Runs one call."""


class Tool(Protocol):
    """What a policy can call. One instance serves all rollouts at once: keep state in the sandbox, and
    references to it in the context."""

    @property
    def schema(self) -> ToolSchema:
        """Name and arguments. Read once, when the tool is registered."""
        ...

    async def execute(self, arguments: Mapping[str, Json], context: ToolContext) -> ToolResult:
        """Run one call; `arguments` fit the schema. What it raises becomes an observation."""
        ...

    def is_available(self) -> tuple[bool, str]:
        """Whether it can run on this machine, and if not, why."""
        ...


def failure(error: str) -> ToolResult:
    """A result that tells the policy what went wrong."""
    return ToolResult(success=False, error=error)
