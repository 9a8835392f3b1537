"""Completion text -> reasoning, content, tool calls and parse errors. Pure; knows no tools and no tokens.

Tags are found with `str.find`, JSON is read by a decoder on windows that grow geometrically, so a tag
inside a JSON string is text and the time is linear in the input, also for adversarial inputs. Two
decodes started at different tags are never both inside a string, so at most two overlap anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atropos_agent.dialects.hermes.bodies import Body, Broken, read_body, resume_point, to_call
from atropos_agent.dialects.hermes.writing import CLOSE_TAG, OPEN_TAG
from atropos_agent.dialects.protocol import ParsedCompletion
from atropos_agent.trajectory import ParseError, ParseErrorKind, ToolCall

_THINK = "<think>"
_END_THINK = "</think>"
_OPEN_STEM = OPEN_TAG[:-1]
_CLOSE_STEM = CLOSE_TAG[:-1]
_LONGEST_TAG = 256  # bounds the search for the end of a tag, so that many open tags cost linear time
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def parse(text: str, *, inside_reasoning: bool = False, truncated: bool = False) -> ParsedCompletion:
    """Read one completion. Never raises, whatever the text.

    `inside_reasoning`: the generation prompt left a reasoning block open. `truncated`: the completion was
    cut by a limit, so a tag that has only begun at the end is an unclosed call too, and reasoning that is
    still open is not an error.
    """
    scan = _Scan(text, truncated)
    scan.run(inside_reasoning)
    return ParsedCompletion(
        reasoning="\n".join(part for part in scan.reasoning if part),
        content="".join(scan.content).strip(),
        calls=tuple(scan.calls),
        errors=tuple(scan.errors),
    )


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


@dataclass(slots=True)
class _Scan:
    """One pass over a text. `_find` and `_tag` are never asked for an earlier position than before: this
    makes their cached answers right and the pass linear."""

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
        # str.lower may change the length of non-ASCII text, and with it every offset.
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
        body = read_body(self.text, opening.end, limit)
        at = body.end if isinstance(body, Body) else resume_point(self.text, opening.end, body.at)
        closing, following = self._tag(_CLOSE_STEM, at), self._tag(_OPEN_STEM, at)
        if closing.start + len(_CLOSE_STEM) >= limit or following.start < closing.start:
            return self._unclosed(opening.start, min(following.start, limit))
        span = (opening.start, closing.end)
        inexact = next((tag for tag in (opening, closing) if not tag.exact), None)
        if inexact:
            written = self.text[inexact.start : min(inexact.end, inexact.start + 40)]
            detail = f"{written!r} is not a plain tool_call tag"
            error = ParseError(ParseErrorKind.MALFORMED_TAG, detail, span)
        elif isinstance(body, Broken):
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

    def _calls_of(self, body: Body, raw_text: str, span: tuple[int, int]) -> _Block:
        value = body.value if body.name is None else {"name": body.name, "arguments": body.value}
        items = value if isinstance(value, list) and value else [value]
        read = [to_call(item, raw_text, span) for item in items]
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
        # A single "<" is not counted as a cut tag: it is common in ordinary text.
        lengths = range(len(_OPEN_STEM), 1, -1) if self.truncated else ()
        cut = next((length for length in lengths if rest.endswith(_OPEN_STEM[:length])), 0)
        self.content.append(rest[: len(rest) - cut])
        if cut:
            self._take(self._unclosed(size - cut, size))
