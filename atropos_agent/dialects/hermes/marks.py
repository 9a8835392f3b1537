"""The marks of the Hermes dialect, for the renderer."""

from __future__ import annotations

from atropos_agent.renderer import Marks

HERMES_TAGS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)
HERMES_MARKS = Marks(
    reasoning_open="<think>",
    reasoning_close="</think>",
    control_texts=HERMES_TAGS,
    call='<tool_call>\n{"name": "terminal", "arguments": {"command": "ls"}}\n</tool_call>',
    call_close="</tool_call>",
    observation='<tool_response>{"success": true, "output": "a.txt\\nb.txt\\n"}</tool_response>',
    repair='<tool_response>{"success": false, "error": "no"}</tool_response>',
)
