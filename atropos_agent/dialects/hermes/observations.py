"""Tool results as the policy reads them: one `<tool_response>` block of JSON each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from atropos_agent.dialects.hermes.marks import HERMES_TAGS
from atropos_agent.trajectory import Json, ToolResult

_ENCODER = json.JSONEncoder(ensure_ascii=False)


def result_to_xml(result: ToolResult, control: Sequence[str] = HERMES_TAGS) -> str:
    """The observation: `<tool_response>{"success", "output", ["error"], ["metadata"]}</tool_response>`.

    Every text of `control` (Hermes tags, the tokenizer's added tokens) that a tool printed is escaped
    inside the JSON, so that it decodes to the same string but never encodes to a control token. No random
    id: the same result is the same observation.
    """
    body: dict[str, Json] = {"success": result.success, "output": result.output}
    if result.error:
        body["error"] = result.error
    if result.metadata:
        body["metadata"] = result.metadata
    return wrap_observation(body, control)


def wrap_observation(body: Mapping[str, Json], control: Sequence[str] = HERMES_TAGS) -> str:
    """Encode `body` as one `<tool_response>` block in which no text of `control` survives literally."""
    return f"<tool_response>{_neutral_json(body, control)}</tool_response>"


def _neutral_json(body: Mapping[str, Json], control: Sequence[str]) -> str:
    text = _ENCODER.encode(body)
    for token in control:
        if token in text:
            text = text.replace(token, f"\\u{ord(token[0]):04x}{token[1:]}")
    return text
