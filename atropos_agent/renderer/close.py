"""The end of an assistant's turn, read off a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atropos_agent.errors import RenderError
from atropos_agent.renderer.joint import Suffix
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate
from atropos_agent.renderer.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Close:
    """What a template writes after an assistant's text up to and including the end of the turn."""

    text: str = ""
    ids: tuple[int, ...] = ()


def find_close(template: ChatTemplate, tokens: Tokens, suffixes: Mapping[str, str]) -> Close:
    """The close that all `suffixes` begin with; empty where the header of what follows ends the turn.

    It is what a conversation that ends with the assistant shows too, up to the first end token, or else
    the first special token, or else without the white space that separates turns.
    """
    if not suffixes:
        return Close()
    region = _common_head([*suffixes.values(), _final(template)])
    if not region:
        region = _before_header(template)
        if tokens.eos_ids.isdisjoint(tokens.encode(region).tolist()):
            return Close()
    text = _up_to_end(region, tokens)
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


def _before_header(template: ChatTemplate) -> str:
    """What stands between an assistant's text and the header of the next user message."""
    question = QUESTION["content"]
    try:
        first = template.text([QUESTION]).partition(question)[0]
        later = template.after_sentinel([QUESTION]).partition(question)[0]
    except RenderError:
        return ""
    return later[: len(later) - len(_common_head([first[::-1], later[::-1]]))]


def _up_to_end(region: str, tokens: Tokens) -> str:
    encoding = tokens.encode_located(region)
    for ends in (tokens.eos_ids, tokens.special_ids):
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in ends:
                return region[:end]
    return region.rstrip()


def _common_head(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    size = next((at for at, char in enumerate(first) if char != last[at]), len(first))
    return first[:size]
