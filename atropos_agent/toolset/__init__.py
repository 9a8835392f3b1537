"""Tools, the gate before a call, and how a call is run. Independent of policies and concrete tools."""

from atropos_agent.toolset.bounds import MAX_OBSERVATION_CHARS, bound_text
from atropos_agent.toolset.gate import Allow, Decision, Deny, Gate, Replace, Verdict, decide
from atropos_agent.toolset.registry import ToolRegistry
from atropos_agent.toolset.tool import ExecuteTool, Tool, ToolContext, failure
from atropos_agent.trajectory import ToolSchema

__all__ = [
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
    "bound_text",
    "decide",
    "failure",
]
