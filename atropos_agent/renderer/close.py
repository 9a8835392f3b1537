"""The end of an assistant's turn, read off a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atropos_agent.errors import RenderError
from atropos_agent.renderer.joint import Suffix
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate, common_head
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import text_of


@dataclass(frozen=True, slots=True)
class Close:
    """What a template writes after an assistant's text up to and including the end of the turn."""

    text: str = ""
    ids: tuple[int, ...] = ()


def find_close(template: ChatTemplate, tokens: Tokens, suffixes: Mapping[str, str]) -> Close:
    """The close that all `suffixes` begin with; empty where the header of what follows ends the turn.

    It is what a conversation that ends with the assistant shows too, up to the first end token, or else
    the first special token, or else without the white space that separates turns. Where that
    conversation ends with another special token than history has (gpt-oss), it is history's.
    """
    if not suffixes or _header_ends_turn(template, tokens):
        return Close()
    head = common_head([*suffixes.values()])
    text = _up_to_end(head, _turn_length(head, _final(template), tokens), tokens)
    if not text:
        before = _before_header(template)
        text = _up_to_end(before, len(before), tokens)
        if tokens.eos_ids.isdisjoint(tokens.encode(text).tolist()):
            return Close()
    suffix = Suffix(next(iter(suffixes.values())), text, tokens)
    return Close(text, tuple(suffix.ids[: suffix.close_ids].tolist()))


def stop_ids(close: Close, tokens: Tokens, suffixes: Mapping[str, str]) -> frozenset[int]:
    """The id a policy ends its turn with: the close's last, or the header's first where there is no close."""
    if close.ids:
        return tokens.control_ids.intersection(close.ids[-1:])
    heads = {int(ids[0]) for suffix in suffixes.values() if len(ids := tokens.encode(suffix))}
    return tokens.special_ids & heads


def _final(template: ChatTemplate) -> str:
    """What follows the text of an assistant that has the last word."""
    mark = SENTINELS[0]
    try:
        return template.text([QUESTION, {"role": "assistant", "content": mark}], prompt=False).partition(
            mark
        )[2]
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
