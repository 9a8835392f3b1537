"""Whether the arguments of a call fit the schema of its tool, and what a policy reads where they do not."""

from atropos_agent.toolset.arguments.check import ArgumentCheck
from atropos_agent.toolset.arguments.wording import known

__all__ = ["ArgumentCheck", "known"]
