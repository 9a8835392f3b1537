"""Completion text -> reasoning, content, tool calls and parse errors. Pure; knows no tools and no tokens.

Tags are found with `str.find`, JSON is read by a decoder on windows that grow geometrically, so a tag
inside a JSON string is text and the time is linear in the input, also for inputs made to hurt. Two
decodes started at different tags are never both inside a string, so at most two overlap anywhere.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atropos_agent.trajectory import Json, ParseError, ParseErrorKind, ToolCall, json_type

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"
MAX_NESTING = 64

_THINK = "<think>"
_END_THINK = "</think>"
_OPEN_STEM = OPEN_TAG[:-1]
_CLOSE_STEM = CLOSE_TAG[:-1]
_FENCE = "```"
_FIRST_WINDOW = 2048
_LONGEST_LITERAL = 16
_LONGEST_TAG = 256
_HINTED_ERRORS = 3
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_BLANKS = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[A-Za-z0-9_.:-]*")


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """What a completion says. `content` is the text outside reasoning and call blocks, stripped; calls and
    errors are in the order of the text; every span is [start, end) in characters of it."""

    reasoning: str
    content: str
    calls: tuple[ToolCall, ...]
    errors: tuple[ParseError, ...]


def parse(text: str, *, inside_reasoning: bool = False, truncated: bool = False) -> ParsedCompletion:
    """Read one completion. Never raises, whatever the text.

    `inside_reasoning`: the generation prompt left a reasoning block open. `truncated`: the completion was
    cut by a limit, so a tag that has only begun at the end is an unclosed call too, and reasoning that is
    still open is no error.
    """
    scan = _Scan(text, truncated)
    scan.run(inside_reasoning)
    return ParsedCompletion(
        reasoning="\n".join(part for part in scan.reasoning if part),
        content="".join(scan.content).strip(),
        calls=tuple(scan.calls),
        errors=tuple(scan.errors),
    )


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


class _RefusedValueError(ValueError):
    """A value that JSON readers accept and we do not; the text is the reason."""


@dataclass(slots=True)
class _Broken:
    """A body that could not be read: why, and the offset where reading failed."""

    reason: str
    at: int
    kind: ParseErrorKind = ParseErrorKind.INVALID_JSON


@dataclass(slots=True)
class _Body:
    """The JSON value of a block; `name` is set for the form `name{json}`; `end` is past the value."""

    value: object
    name: str | None
    end: int


@dataclass(slots=True)
class _Tag:
    """One opening or closing tag at [start, end); `exact` where it is written as it must be."""

    start: int
    end: int
    exact: bool


@dataclass(slots=True)
class _Block:
    """One call block at [start, end): the calls in it and what is wrong with it."""

    start: int
    end: int
    calls: tuple[ToolCall, ...] = ()
    errors: tuple[ParseError, ...] = ()


def _refuse_constant(literal: str) -> object:
    raise _RefusedValueError(f"{literal} is not a JSON number")


def _finite_float(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise _RefusedValueError(f"the number {literal[:24]} is out of range")
    return value


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant, parse_float=_finite_float)


def _decode(text: str, start: int, limit: int) -> tuple[object, int] | _Broken:
    """The JSON object or list that begins at `start`, and its end; reads no further than `limit`."""
    window = _FIRST_WINDOW
    while True:
        document = text[start : min(start + window, limit)]
        try:
            value, length = _DECODER.raw_decode(document)
        except json.JSONDecodeError as error:
            if start + window < limit and _cut_by_window(error, len(document)):
                window *= 4
                continue
            return _Broken(_json_reason(error, document), start + error.pos)
        except RecursionError:
            return _Broken("JSON nested too deeply", start)
        except ValueError as error:
            reason = str(error) if isinstance(error, _RefusedValueError) else "a number has too many digits"
            return _Broken(reason, start)
        reason = _unusable(value, document[:length])
        return _Broken(reason, start + length) if reason else (value, start + length)


def _cut_by_window(error: json.JSONDecodeError, length: int) -> bool:
    return error.msg.startswith("Unterminated string") or error.pos >= length - _LONGEST_LITERAL


def _json_reason(error: json.JSONDecodeError, document: str) -> str:
    near = document[max(error.pos - 20, 0) : error.pos + 12]
    return f"invalid JSON: {error.msg} at character {error.pos}, near {near!r}"


def _unusable(value: object, source: str) -> str:
    """Why a decoded value cannot be passed on, or ""."""
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


def _read_body(text: str, start: int, limit: int) -> _Body | _Broken:
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
            return _Broken(reason, at, ParseErrorKind.NOT_AN_OBJECT)
        name, at = text[at:name_end], brace
    decoded = _decode(text, at, limit)
    if isinstance(decoded, _Broken):
        return decoded
    value, at = decoded
    at = _skip(_BLANKS, text, at, limit)
    if fenced and text.startswith(_FENCE, at, limit):
        at = _skip(_BLANKS, text, at + len(_FENCE), limit)
    return _Body(value, name, at)


def _resume_point(text: str, start: int, failed_at: int) -> int:
    """Where to look for the next tag after JSON from `start` failed: inside the last string if reading
    failed right after it (it may have run over the tags that really ended the call), else at the failure."""
    quote = text.rfind('"', start, failed_at)
    if quote < 0 or _skip(_BLANKS, text, quote + 1, failed_at) < failed_at:
        return failed_at
    opening = text.rfind('"', start, quote)
    while opening > start and text[opening - 1] == "\\":
        opening = text.rfind('"', start, opening - 1)
    return max(opening, start)


def _to_call(body: object, raw_text: str, span: tuple[int, int]) -> ToolCall | ParseError:
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
        if isinstance(decoded, _Broken):
            return f"are text, but not JSON: {decoded.reason}"
        if decoded and decoded[1] == len(text):
            value = decoded[0]
        elif text in ("", "null"):
            value = None
    if value is None:
        return {}
    return value if isinstance(value, dict) else f"must be a JSON object, not {json_type(value)}"


@dataclass(slots=True)
class _Scan:
    """One pass over a text. Positions asked of `_find` and `_tag` never go back further than an earlier
    answer's question, which is what makes caching the answers right and the pass linear."""

    text: str
    truncated: bool
    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    errors: list[ParseError] = field(default_factory=list)
    _lowered: str = ""
    _found: dict[str, int] = field(default_factory=dict)
    _tags: dict[str, _Tag] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # str.lower alone may change the length of other alphabets, and with it every offset
        self._lowered = self.text.lower() if self.text.isascii() else self.text.translate(_ASCII_LOWER)

    def run(self, inside_reasoning: bool) -> None:
        """Fill the lists."""
        at = self._read_reasoning(0, 0) if inside_reasoning else 0
        size = len(self.text)
        while at < size:
            opening, closing = self._tag(_OPEN_STEM, at), self._tag(_CLOSE_STEM, at)
            think = self._find(_THINK, at)
            first = min(think, opening.start, closing.start)
            if first == size:
                self._take_rest(at)
                break
            self.content.append(self.text[at:first])
            if first == think:
                at = self._read_reasoning(think, think + len(_THINK))
            elif first == opening.start:
                at = self._take(self._read_block(opening, size))
            else:
                at = closing.end
                detail = "a closing tool_call tag without an opening one"
                self._report(ParseErrorKind.MALFORMED_TAG, detail, (closing.start, at))

    def _find(self, needle: str, start: int) -> int:
        """The first place of `needle` from `start` on; the text's length where there is none."""
        at = self._found.get(needle, -1)
        if at < start:
            at = self._lowered.find(needle, start)
            at = len(self.text) if at < 0 else at
            self._found[needle] = at
        return at

    def _tag(self, stem: str, start: int) -> _Tag:
        """The first tag from `start` on that begins with `stem`; at the text's end where there is none."""
        tag = self._tags.get(stem)
        if tag is None or tag.start < start:
            tag = self._tags[stem] = self._search_tag(stem, start)
        return tag

    def _search_tag(self, stem: str, start: int) -> _Tag:
        size = len(self.text)
        while (at := self._find(stem, start)) < size:
            after = at + len(stem)
            if self.text.startswith(">", after):
                return _Tag(at, after + 1, self.text.startswith(stem, at))
            if after == size or self.text[after].isspace() or self.text.startswith(("/", "s>"), after):
                return _Tag(at, self._end_of_attributes(after), exact=False)
            start = after
        return _Tag(size, size, exact=False)

    def _end_of_attributes(self, start: int) -> int:
        """Past the ">" that ends a tag, or `start` where another tag or nothing comes first."""
        end = self.text.find(">", start, start + _LONGEST_TAG) + 1
        return end if end and self.text.find("<", start, end) < 0 else start

    def _read_reasoning(self, start: int, body: int) -> int:
        """Take the reasoning from `body` on and flag complete calls in it; returns where it ends."""
        closed = self._find(_END_THINK, body)
        at, size = body, len(self.text)
        while (opening := self._tag(_OPEN_STEM, at)).start < closed:
            block = self._read_block(opening, closed)
            if block.calls:
                detail = f"the call of {block.calls[0].name[:64]!r} is inside the reasoning"
                self._report(ParseErrorKind.INSIDE_REASONING, detail, (block.start, block.end))
            at = block.end
        self.reasoning.append(self.text[body:closed].strip())
        if closed < size:
            return closed + len(_END_THINK)
        if not self.truncated:
            self._report(ParseErrorKind.UNCLOSED_REASONING, "the reasoning was never closed", (start, size))
        return size

    def _read_block(self, opening: _Tag, limit: int) -> _Block:
        """The block that begins with `opening`. Nothing is recorded."""
        body = _read_body(self.text, opening.end, limit)
        at = body.end if isinstance(body, _Body) else _resume_point(self.text, opening.end, body.at)
        closing, following = self._tag(_CLOSE_STEM, at), self._tag(_OPEN_STEM, at)
        if closing.start + len(_CLOSE_STEM) >= limit or following.start < closing.start:
            return self._unclosed(opening.start, min(following.start, limit))
        span = (opening.start, closing.end)
        inexact = next((tag for tag in (opening, closing) if not tag.exact), None)
        if inexact:
            written = self.text[inexact.start : min(inexact.end, inexact.start + 40)]
            detail = f"{written!r} is not a plain tool_call tag"
            error = ParseError(ParseErrorKind.MALFORMED_TAG, detail, span)
        elif isinstance(body, _Broken):
            error = ParseError(body.kind, body.reason, span)
        elif at < closing.start:
            detail = f"text after the JSON: {self.text[at : min(at + 24, closing.start)]!r}"
            error = ParseError(ParseErrorKind.TRAILING_TEXT, detail, span)
        else:
            return self._calls_of(body, self.text[opening.end : closing.start].strip(), span)
        return _Block(*span, errors=(error,))

    def _unclosed(self, start: int, end: int) -> _Block:
        why = "cut off by the length limit" if self.truncated and end == len(self.text) else "never closed"
        error = ParseError(ParseErrorKind.UNCLOSED, f"a tool_call tag was {why}", (start, end))
        return _Block(start, end, errors=(error,))

    def _calls_of(self, body: _Body, raw_text: str, span: tuple[int, int]) -> _Block:
        value = body.value if body.name is None else {"name": body.name, "arguments": body.value}
        items = value if isinstance(value, list) and value else [value]
        read = [_to_call(item, raw_text, span) for item in items]
        calls = tuple(item for item in read if isinstance(item, ToolCall))
        return _Block(*span, calls, tuple(item for item in read if isinstance(item, ParseError)))

    def _take(self, block: _Block) -> int:
        self.calls.extend(block.calls)
        self.errors.extend(block.errors)
        return block.end

    def _report(self, kind: ParseErrorKind, detail: str, span: tuple[int, int]) -> None:
        self.errors.append(ParseError(kind, detail, span))

    def _take_rest(self, start: int) -> None:
        """The text after the last tag; a truncated one may end in the middle of an opening tag."""
        rest, size = self.text[start:], len(self.text)
        lengths = range(len(_OPEN_STEM), 1, -1) if self.truncated else ()
        cut = next((length for length in lengths if rest.endswith(_OPEN_STEM[:length])), 0)
        self.content.append(rest[: len(rest) - cut])
        if cut:
            self._take(self._unclosed(size - cut, size))
