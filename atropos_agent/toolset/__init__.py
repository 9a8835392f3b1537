"""Tools and how a call is run. Knows no policy and no concrete tool."""

from atropos_agent.toolset.gate import Allow, Decision, Deny, Gate, Replace, Verdict, decide
from atropos_agent.toolset.registry import (
    CALL_DEADLINE,
    MAX_OBSERVATION_CHARS,
    ExecuteTool,
    Tool,
    ToolContext,
    ToolRegistry,
    argument_problems,
    bind,
    bound_text,
    failure,
)
from atropos_agent.trajectory import ToolSchema

__all__ = [
    "CALL_DEADLINE",
    "MAX_OBSERVATION_CHARS",
    "Allow",
    "Decision",
    "Deny",
    "ExecuteTool",
    "Gate",
    "Replace",
    "Tool",
    "ToolContext",
    "ToolRegistry",
    "ToolSchema",
    "Verdict",
    "argument_problems",
    "bind",
    "bound_text",
    "decide",
    "failure",
]
