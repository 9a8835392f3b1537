"""The Hermes dialect: raw text with `<think>`, `<tool_call>{json}</tool_call>` and `<tool_response>`."""

from atropos_agent.dialects.hermes.dialect import HERMES, Hermes
from atropos_agent.dialects.hermes.marks import HERMES_MARKS, HERMES_TAGS
from atropos_agent.dialects.hermes.observations import result_to_xml, wrap_observation
from atropos_agent.dialects.hermes.parser import parse
from atropos_agent.dialects.hermes.prompts import system_prompt, tool_definitions_json
from atropos_agent.dialects.hermes.writing import render_call, repair_hint

__all__ = [
    "HERMES",
    "HERMES_MARKS",
    "HERMES_TAGS",
    "Hermes",
    "parse",
    "render_call",
    "repair_hint",
    "result_to_xml",
    "system_prompt",
    "tool_definitions_json",
    "wrap_observation",
]
