"""Messages to exact token ids, and what follows a completion. Knows no HTTP and no dialect."""

from atropos_agent.renderer.branching import Branching
from atropos_agent.renderer.bridge import BRIDGE_MISMATCH, REASONING_CLOSED, Bridge, Continuation, Rendered
from atropos_agent.renderer.certificate import Certificate
from atropos_agent.renderer.form import CallArguments
from atropos_agent.renderer.habits import Habits, RoleSupport
from atropos_agent.renderer.joint import FOREIGN_CLOSE
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.renderer import Renderer
from atropos_agent.renderer.tool_bridge import ToolBridge

__all__ = [
    "BRIDGE_MISMATCH",
    "FOREIGN_CLOSE",
    "REASONING_CLOSED",
    "Branching",
    "Bridge",
    "CallArguments",
    "Certificate",
    "Continuation",
    "Habits",
    "Marks",
    "Rendered",
    "Renderer",
    "RoleSupport",
    "ToolBridge",
]
