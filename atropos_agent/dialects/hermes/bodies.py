"""Reads the JSON inside a call block, with a decoder on growing windows: linear in the input."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from atropos_agent.trajectory import Json, ParseError, ParseErrorKind, ToolCall, json_type

MAX_NESTING = 64

_FENCE = "```"
_FIRST_WINDOW = 2048
_LONGEST_LITERAL = 16  # an error this close to a window's end may come from a literal that it cuts
_BLANKS = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[A-Za-z0-9_.:-]*")
_TRAILING_COMMA = {
    "Illegal trailing comma before end of object": "Expecting property name enclosed in double quotes",
    "Illegal trailing comma before end of array": "Expecting value",
}
"""What Python 3.13 and later report at a trailing comma, and what earlier ones report at the bracket behind
it. The place decides where parsing resumes, and the model reads the text: neither may depend on Python."""


class _RefusedValueError(ValueError):
    """A value that JSON readers accept and we do not; the text is the reason."""


@dataclass(slots=True)
class Broken:
    """A body that could not be read: why, and the offset where reading failed."""

    reason: str
    at: int
    kind: ParseErrorKind = ParseErrorKind.INVALID_JSON


@dataclass(slots=True)
class Body:
    """The JSON value of a block; `name` is set for the form `name{json}`; `end` is past the value."""

    value: object
    name: str | None
    end: int


def _refuse_constant(literal: str) -> object:
    raise _RefusedValueError(f"{literal} is not a JSON number")


def _finite_float(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise _RefusedValueError(f"the number {literal[:24]} is out of range")
    return value


# strict=False accepts raw line ends inside strings; models often write them.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant, parse_float=_finite_float)


def _decode(text: str, start: int, limit: int) -> tuple[object, int] | Broken:
    """The JSON object or list that begins at `start`, and its end; reads no further than `limit`."""
    window = _FIRST_WINDOW
    while True:
        document = text[start : min(start + window, limit)]
        try:
            value, length = _DECODER.raw_decode(document)
        except json.JSONDecodeError as error:
            reason, at = _reported(error, document)
            if start + window < limit and _cut_by_window(reason, at, len(document)):
                window *= 4
                continue
            return Broken(_json_reason(reason, at, document), start + at)
        except RecursionError:
            return Broken("JSON nested too deeply", start)
        except ValueError as error:  # also from int(), which refuses numbers of more than 4300 digits
            reason = str(error) if isinstance(error, _RefusedValueError) else "a number has too many digits"
            return Broken(reason, start)
        reason = _unusable(value, document[:length])
        return Broken(reason, start + length) if reason else (value, start + length)


def _reported(error: json.JSONDecodeError, document: str) -> tuple[str, int]:
    """Reason and place of an error, the same on all versions of Python."""
    earlier = _TRAILING_COMMA.get(error.msg)
    if earlier is None:
        return error.msg, error.pos
    return earlier, _skip(_BLANKS, document, error.pos + 1, len(document))


def _cut_by_window(reason: str, at: int, length: int) -> bool:
    return reason.startswith("Unterminated string") or at >= length - _LONGEST_LITERAL


def _json_reason(reason: str, at: int, document: str) -> str:
    near = document[max(at - 20, 0) : at + 12]
    return f"invalid JSON: {reason} at character {at}, near {near!r}"


def _unusable(value: object, source: str) -> str:
    """Why a decoded value cannot be passed on, or ""."""
    # Brackets are an upper bound and cheap to count; the exact nesting is measured only above the limit.
    if source.count("[") + source.count("{") > MAX_NESTING and _nesting(value) > MAX_NESTING:
        return f"JSON nested deeper than {MAX_NESTING} levels"
    try:
        source.encode()
        if "\\u" in source:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "a lone surrogate is not a character"
    return ""


def _nesting(value: object) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _skip(pattern: re.Pattern[str], text: str, start: int, limit: int) -> int:
    match = pattern.match(text, start, limit)
    return match.end() if match else start


def read_body(text: str, start: int, limit: int) -> Body | Broken:
    """The value after an opening tag: JSON, or `name{json}`, either in a code fence."""
    at = _skip(_BLANKS, text, start, limit)
    fenced = text.startswith(_FENCE, at, limit)
    if fenced:
        at = _skip(_BLANKS, text, _skip(_WORD, text, at + len(_FENCE), limit), limit)
    name = None
    if not text.startswith(("{", "["), at, limit):
        name_end = _skip(_WORD, text, at, limit)
        brace = _skip(_BLANKS, text, name_end, limit)
        if name_end == at or not text.startswith("{", brace, limit):
            reason = f"a call must be a JSON object, found {text[at : min(at + 24, limit)]!r}"
            return Broken(reason, at, ParseErrorKind.NOT_AN_OBJECT)
        name, at = text[at:name_end], brace
    decoded = _decode(text, at, limit)
    if isinstance(decoded, Broken):
        return decoded
    value, at = decoded
    at = _skip(_BLANKS, text, at, limit)
    if fenced and text.startswith(_FENCE, at, limit):
        at = _skip(_BLANKS, text, at + len(_FENCE), limit)
    return Body(value, name, at)


def resume_point(text: str, start: int, failed_at: int) -> int:
    """Where to look for the next tag after JSON from `start` failed: inside the last string if reading
    failed right after it (it may have run over the tags that really ended the call), else at the failure."""
    quote = text.rfind('"', start, failed_at)
    if quote < 0 or _skip(_BLANKS, text, quote + 1, failed_at) < failed_at:
        return failed_at
    opening = text.rfind('"', start, quote)
    while opening > start and text[opening - 1] == "\\":
        opening = text.rfind('"', start, opening - 1)
    return max(opening, start)


def to_call(body: object, raw_text: str, span: tuple[int, int]) -> ToolCall | ParseError:
    """One decoded object as a call, or what is wrong with it."""
    if not isinstance(body, dict):
        detail = f"a call must be a JSON object, not {json_type(body)}"
        return ParseError(ParseErrorKind.NOT_AN_OBJECT, detail, span)
    name = body.get("name")
    if not isinstance(name, str) or not name.strip():
        return ParseError(ParseErrorKind.MISSING_NAME, 'a call needs a text "name"', span)
    arguments = _arguments(body["arguments"] if "arguments" in body else body.get("parameters"))
    if isinstance(arguments, str):
        return ParseError(ParseErrorKind.BAD_ARGUMENTS, f"arguments of {name[:64]!r} {arguments}", span)
    return ToolCall(name=name, arguments=arguments, raw_text=raw_text, span=span)


def _arguments(value: object) -> dict[str, Json] | str:
    """Arguments as an object, decoded once if they are JSON text; or what is wrong with them."""
    if isinstance(value, str):
        text = value.strip()
        decoded = _decode(text, 0, len(text)) if text.startswith(("{", "[")) else None
        if isinstance(decoded, Broken):
            return f"are text, but not JSON: {decoded.reason}"
        if decoded and decoded[1] == len(text):
            value = decoded[0]
        elif text in ("", "null"):
            value = None
    if value is None:
        return {}
    return value if isinstance(value, dict) else f"must be a JSON object, not {json_type(value)}"
