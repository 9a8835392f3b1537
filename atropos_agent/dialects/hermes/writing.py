"""What the Hermes dialect writes: calls as a policy would write them, and the hint after a broken one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from atropos_agent.trajectory import Json, ParseError, ToolCall

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"
_HINTED_ERRORS = 3


def render_call(name: str, arguments: Mapping[str, Json]) -> str:
    """The canonical block of one call; `parse` gives back exactly this name and these arguments."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, allow_nan=False)
    return f"{OPEN_TAG}\n{body}\n{CLOSE_TAG}"


def repair_hint(errors: Sequence[ParseError]) -> str:
    """For the model: what could not be run, and how a call is written."""
    listed = [f"({index}) {error.detail}" for index, error in enumerate(errors[:_HINTED_ERRORS], 1)]
    if len(errors) > _HINTED_ERRORS:
        listed.append(f"and {len(errors) - _HINTED_ERRORS} more")
    return (
        f"Not run: {'; '.join(listed)}. Write each call as one valid JSON object "
        '{"name": ..., "arguments": {...}} between a tool_call tag and its closing tag, after the reasoning.'
    )


def written_call(call: ToolCall) -> str:
    """The block of a call that a server parsed. Arguments that the server could not read stay as it gave
    them, so that the parser reports them."""
    if call.arguments or not call.raw_text:
        return render_call(call.name, call.arguments)
    body = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.raw_text}}}'
    return f"{OPEN_TAG}\n{body}\n{CLOSE_TAG}"
