"""Bounds the part of a result that a policy reads: valid Unicode, limited size."""

from __future__ import annotations

import json
from collections.abc import Mapping

from atropos_agent.trajectory import Json, ToolCall, ToolResult

MAX_OBSERVATION_CHARS = 16_000
_ERROR_SHARE = 4


def bounded(result: ToolResult, call: ToolCall, max_chars: int) -> ToolResult:
    """`result` of `call` in at most `max_chars` characters of output and error, and a quarter of that for
    the error and for the metadata each."""
    error = bound_text(_encodable(result.error), max_chars // _ERROR_SHARE)
    metadata = result.metadata
    if metadata and len(json.dumps(metadata)) > max_chars // _ERROR_SHARE:
        metadata = {"omitted": "too long"}
    return ToolResult(
        success=result.success,
        output=bound_text(_encodable(result.output), max_chars - len(error)),
        error=error,
        metadata=metadata,
        uniq_id=result.uniq_id or call.uniq_id,
        details=_recordable(result.details),
    )


def bound_text(text: str, max_chars: int) -> str:
    """`text` in at most `max_chars` characters: head and tail, and a line on how much was cut between."""
    if len(text) <= max_chars:
        return text
    room = max(max_chars - len(_cut_line(len(text))), 0)
    head, tail = room - room // 2, room // 2
    return f"{text[:head]}{_cut_line(len(text) - room)}{text[len(text) - tail :]}"[:max_chars]


def _cut_line(count: int) -> str:
    return f"\n[... {count} characters cut ...]\n"


def _recordable(details: Mapping[str, Json]) -> Mapping[str, Json]:
    """`details` if it is JSON, as its type says; a note otherwise, because the record must be writable."""
    if not details:
        return details
    try:
        json.dumps(details)
    except (TypeError, ValueError) as error:
        return {"omitted": f"no JSON: {error}"}
    return details


def _encodable(text: str) -> str:
    """`text` with lone surrogates replaced: a tokenizer and a server need UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
