"""What every tool that acts in the rollout's sandbox has in common."""

from __future__ import annotations

from collections.abc import Mapping

from atropos_agent.sandbox.protocol import Sandbox
from atropos_agent.toolset import ToolContext, ToolSchema, failure
from atropos_agent.trajectory import Json, ToolResult


class SandboxTool:
    """Acts in the sandbox of its call's context; without one, the result says so."""

    _schema: ToolSchema

    @property
    def schema(self) -> ToolSchema:
        """Name and arguments."""
        return self._schema

    def is_available(self) -> tuple[bool, str]:
        """Always: whether there is a sandbox is a matter of the call."""
        return True, ""

    async def execute(self, arguments: Mapping[str, Json], context: ToolContext) -> ToolResult:
        """Do it. Raises SandboxLost, SandboxError where the backend lacks what the tool needs."""
        if context.sandbox is None:
            return failure(f"{self._schema.name} needs a sandbox, and this rollout has none")
        return await self._execute_in(context.sandbox, arguments, context)

    async def _execute_in(
        self, sandbox: Sandbox, arguments: Mapping[str, Json], context: ToolContext
    ) -> ToolResult:
        raise NotImplementedError
