"""Messages to exact token ids, and what follows a completion until the next one. Knows nothing of HTTP."""

from atropos_agent.renderer.branching import Branching
from atropos_agent.renderer.certificate import Certificate
from atropos_agent.renderer.habits import Habits, RoleSupport
from atropos_agent.renderer.joint import FOREIGN_CLOSE
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.renderer import (
    BRIDGE_MISMATCH,
    REASONING_CLOSE,
    REASONING_CLOSED,
    Bridge,
    Continuation,
    Rendered,
    Renderer,
)

__all__ = [
    "BRIDGE_MISMATCH",
    "FOREIGN_CLOSE",
    "REASONING_CLOSE",
    "REASONING_CLOSED",
    "Branching",
    "Bridge",
    "Certificate",
    "Continuation",
    "Habits",
    "Marks",
    "Rendered",
    "Renderer",
    "RoleSupport",
]
