"""The tools of an agent. An error inside a call becomes an observation; only SandboxLost and CancelledError
are raised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from atropos_agent.errors import SandboxLost
from atropos_agent.toolset.arguments import ArgumentCheck, known
from atropos_agent.toolset.bounds import MAX_OBSERVATION_CHARS, bounded
from atropos_agent.toolset.tool import Tool, ToolContext, failure
from atropos_agent.trajectory import ToolCall, ToolResult, ToolSchema


@dataclass(frozen=True, slots=True)
class _Registered:
    tool: Tool
    schema: ToolSchema
    check: ArgumentCheck


class ToolRegistry:
    """The tools of an agent, in the order in which they were registered.

    `max_observation_chars` bounds the text that the policy reads of one call; head and tail are kept. Raises
    ToolError for a tool whose schema cannot be used.
    """

    def __init__(
        self, tools: Iterable[Tool] = (), *, max_observation_chars: int = MAX_OBSERVATION_CHARS
    ) -> None:
        self._registered: dict[str, _Registered] = {}
        self.max_observation_chars = max_observation_chars
        for tool in tools:
            self.register(tool)

    def __len__(self) -> int:
        return len(self._registered)

    def register(self, tool: Tool) -> None:
        """Add `tool`; one of the same name is replaced. Raises ToolError for a schema that is not a JSON
        Schema (2020-12) of an object, or refers to anything outside itself."""
        schema = tool.schema
        self._registered[schema.name] = _Registered(tool, schema, ArgumentCheck(schema))

    def get(self, name: str) -> Tool | None:
        """The tool of this name."""
        found = self._registered.get(name)
        return None if found is None else found.tool

    def list_tools(self) -> list[str]:
        """All names."""
        return list(self._registered)

    def get_schemas(self) -> list[ToolSchema]:
        """All schemas."""
        return [found.schema for found in self._registered.values()]

    @property
    def needs_sandbox(self) -> bool:
        """False where every tool runs outside the sandbox, and where there are no tools."""
        return not all(schema.external for schema in self.get_schemas())

    def is_parallel(self, calls: Iterable[ToolCall]) -> bool:
        """Whether `calls` may run side by side: each of their tools is known and says that it is safe."""
        found = [self._registered.get(call.name) for call in calls]
        return all(each is not None and each.schema.parallel for each in found)

    def get_prompt_description(self) -> str:
        """All tools in words, separated by blank lines."""
        return "\n\n".join(schema.to_prompt_description() for schema in self.get_schemas())

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Run one call to its bounded observation. Raises SandboxLost and CancelledError only."""
        try:
            return bounded(await self._run(call, context), call, self.max_observation_chars)
        except SandboxLost:
            raise
        except Exception as error:  # the boundary to tools: the policy reads any error
            result = failure(f"Tool execution error: {type(error).__name__}: {error}")
            return bounded(result, call, self.max_observation_chars)

    async def _run(self, call: ToolCall, context: ToolContext) -> ToolResult:
        found = self._registered.get(call.name)
        if found is None:
            return failure(f"Unknown tool: {call.name}{known(call.name, self._registered, 'tools')}")
        if problems := found.check.problems(call.arguments):
            return failure(f"Invalid arguments for {call.name}: {'; '.join(problems)}")
        available, reason = found.tool.is_available()
        if not available:
            return failure(f"Tool {call.name} is not available: {reason}")
        return await found.tool.execute(call.arguments, context)
