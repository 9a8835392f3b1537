"""The Hermes dialect: raw text with `<think>`, `<tool_call>{json}</tool_call>` and `<tool_response>`."""

from atropos_agent.dialects.hermes.marks import HERMES_MARKS, HERMES_TAGS
from atropos_agent.dialects.hermes.observations import result_to_xml, wrap_observation
from atropos_agent.dialects.hermes.parser import ParsedCompletion, parse, render_call, repair_hint
from atropos_agent.dialects.hermes.prompts import system_prompt

__all__ = [
    "HERMES_MARKS",
    "HERMES_TAGS",
    "ParsedCompletion",
    "parse",
    "render_call",
    "repair_hint",
    "result_to_xml",
    "system_prompt",
    "wrap_observation",
]
