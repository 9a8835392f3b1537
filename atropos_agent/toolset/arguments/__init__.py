"""Checks a call's arguments against the tool's schema; makes the text a policy reads if they do not fit."""

from atropos_agent.toolset.arguments.check import ArgumentCheck
from atropos_agent.toolset.arguments.wording import known

__all__ = ["ArgumentCheck", "known"]
