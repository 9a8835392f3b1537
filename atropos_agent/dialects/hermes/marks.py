"""The reasoning markers and control texts of the Hermes dialect."""

from __future__ import annotations

from atropos_agent.renderer import Marks
from atropos_agent.renderer.tokens import HERMES_TAGS

HERMES_MARKS = Marks("<think>", "</think>", HERMES_TAGS)
