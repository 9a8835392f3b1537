"""The parts that a run is given: policy, renderer, dialect, tools and limits."""

from __future__ import annotations

from dataclasses import dataclass

from atropos_agent.config import AgentConfig
from atropos_agent.dialects import Dialect
from atropos_agent.policy import Policy
from atropos_agent.renderer import Renderer
from atropos_agent.toolset import ExecuteTool, Gate, ToolContext, ToolRegistry


@dataclass(frozen=True, slots=True)
class Setting:
    """The parts of one run; other runs may share each of them."""

    policy: Policy
    renderer: Renderer | None
    dialect: Dialect
    config: AgentConfig
    tools: ToolRegistry
    execute_tool: ExecuteTool
    context: ToolContext
    gate: Gate | None = None
    rollout_id: str = ""
    seed: int | None = None
