"""Finds the end of an assistant's turn in the renderings of a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atropos_agent.errors import RenderError
from atropos_agent.renderer.form import NOT_SHOWN
from atropos_agent.renderer.joint import Suffix
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate, common_head
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import Message, text_of


@dataclass(frozen=True, slots=True)
class Close:
    """What a template writes after an assistant's text up to and including the end of the turn."""

    text: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CallsEnd:
    """What follows a turn of structured calls. `closes` is False where that is already the next header."""

    text: str = ""
    closes: bool = False


def find_close(template: ChatTemplate, tokens: Tokens, suffixes: Mapping[str, str]) -> Close:
    """The close that all `suffixes` begin with; empty where the header of what follows ends the turn.

    The close is the part that a conversation ending with the assistant shows too: up to the first end
    token, or else the first special token, or else without the white space that separates turns. Where
    that conversation ends with another special token than history has (gpt-oss), history's is taken.
    """
    if not suffixes or _header_ends_turn(template, tokens):
        return Close()
    head, mark = common_head([*suffixes.values()]), SENTINELS[0]
    final = _after(template, {"role": "assistant", "content": mark}, mark)
    text = _up_to_end(head, _turn_length(head, final, tokens), tokens)
    if not text:
        before = _before_header(template)
        text = _up_to_end(before, len(before), tokens)
        if tokens.eos_ids.isdisjoint(tokens.encode(text).tolist()):
            return Close()
    suffix = Suffix(next(iter(suffixes.values())), text, tokens)
    return Close(text, tuple(suffix.ids[: suffix.close_ids].tolist()))


def stop_ids(close: Close, tokens: Tokens, suffixes: Mapping[str, str]) -> frozenset[int]:
    """The ids that end a policy's turn: the close's last, or the header's first where there is no close."""
    if close.ids:
        return tokens.control_ids.intersection(close.ids[-1:])
    heads = {int(ids[0]) for suffix in suffixes.values() if len(ids := tokens.encode(suffix))}
    return tokens.special_ids & heads


def find_calls_end(
    template: ChatTemplate, tokens: Tokens, close_text: str, calling: Message, result: Message
) -> CallsEnd:
    """The end of the turn `calling`, which holds the first sentinel in its last call, before `result`.

    It is the first end token behind the calls, or the usual close; else the special token that a last turn
    ends with, or the first one of the next header. Raises RenderError where there is none.
    """
    if template.form.arguments is NOT_SHOWN:
        raise RenderError("the chat template does not show structured calls")
    mark = SENTINELS[0]
    rest = template.text([QUESTION, calling, result]).partition(mark)[2]
    before, found, _ = rest.partition(text_of(result))
    if not found:
        raise RenderError("the chat template does not show tool messages")
    special = _placed(before, tokens)
    ends = [(start, before[start:end]) for token, start, end in special if token in tokens.eos_ids]
    if close_text and close_text in before:
        ends.append((before.find(close_text), close_text))
    if not ends:
        size = len(common_head([before, _after(template, calling, mark)]))
        last = [(start, before[start:end]) for _, start, end in special if end == size]
        ends = last or [(start, before[start:end]) for _, start, end in special if end > size]
    if not ends:
        raise RenderError("no control token stands between the calls and their result")
    start, text = min(ends)
    # A later special token is then the one that opens the next header, so this one closes the turn.
    closes = text == close_text or any(at > start for _, at, _ in special)
    return CallsEnd(text, closes)


def _placed(text: str, tokens: Tokens) -> list[tuple[int, int, int]]:
    """The special tokens in `text`: id, start and end in characters."""
    encoding = tokens.encode_located(text)
    ends = tokens.special_ids | tokens.eos_ids
    placed = zip(encoding.ids, encoding.offsets, strict=True)
    return [(token, start, end) for token, (start, end) in placed if token in ends]


def _after(template: ChatTemplate, last: Message, mark: str) -> str:
    """What follows `mark` in a conversation that ends with the message `last`."""
    try:
        return template.text([QUESTION, last], prompt=False).partition(mark)[2]
    except RenderError:
        return ""


def headers(template: ChatTemplate) -> tuple[str, str]:
    """What stands before a first question, and between an assistant's text and a later one."""
    question = text_of(QUESTION)
    try:
        first, later = template.text([QUESTION]), template.after_sentinel([QUESTION])
    except RenderError:
        return "", ""
    return first.partition(question)[0], later.partition(question)[0]


def _header_ends_turn(template: ChatTemplate, tokens: Tokens) -> bool:
    """True where nothing but the next header, with its one special token, stands after the text (GLM)."""
    first, later = headers(template)
    marks = [token for token in tokens.encode(later).tolist() if token in tokens.special_ids]
    return len(marks) == 1 and first.endswith(later)


def _before_header(template: ChatTemplate) -> str:
    first, later = headers(template)
    return later[: len(later) - len(common_head([first[::-1], later[::-1]]))]


def _turn_length(head: str, final: str, tokens: Tokens) -> int:
    """How many characters of `head` belong to the turn, by what a `final` turn ends with."""
    common = len(common_head([head, final]))
    # The two may begin with different special tokens (gpt-oss): then the turn includes history's.
    ours, theirs = tokens.encode_located(head), tokens.encode_located(final)
    if tokens.special_ids.issuperset(ours.ids[:1]) and tokens.special_ids.intersection(theirs.ids[:1]):
        return max([common, *(end for _, end in ours.offsets[:1])])
    return common


def _up_to_end(head: str, size: int, tokens: Tokens) -> str:
    """What ends a turn within the first `size` characters of `head`; no control token is cut in two."""
    encoding = tokens.encode_located(head)
    placed = list(zip(encoding.ids, encoding.offsets, strict=True))
    for ends in (tokens.eos_ids, tokens.special_ids):
        for token, (_, end) in placed:
            if end <= size and token in ends:
                return head[:end]
    starts = [start for token, (start, _) in placed if token in tokens.special_ids]
    return head[: min([size, *starts])].rstrip()
