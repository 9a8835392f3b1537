"""Where sampled tokens end and appended tokens begin, so that the end of a turn is not doubled or missing."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import FinishReason, TokenIds

FOREIGN_CLOSE = "foreign_close"
UNREPORTED_STOP = "unreported_stop"


@dataclass(frozen=True, slots=True)
class Joint:
    """How much of a suffix is not to be appended: its first `characters`, which are its first `ids` ids
    (None where a token straddles that place). `close_ids` of the appended ids belong to the close.
    `closed` is True where the sampled tokens end the turn themselves."""

    characters: int = 0
    ids: int | None = 0
    close_ids: int = 0
    closed: bool = True
    notes: tuple[str, ...] = ()


class Suffix:
    """What the template writes after an assistant's text: `text`, its `ids` int32[n], and how many of
    these begin within `close_text`, the end of the turn."""

    __slots__ = ("_encoding", "close_ids", "close_text", "ids", "text")

    def __init__(self, text: str, close_text: str, tokens: Tokens) -> None:
        self.text: str = text
        self.close_text: str = close_text
        self._encoding = tokens.encode_located(text)
        self.ids: TokenIds = np.array(self._encoding.ids, np.int32)
        self.close_ids: int = 0
        while self.close_ids < len(self.ids) and self._span(self.close_ids)[0] < len(close_text):
            self.close_ids += 1

    def end_of(self, ids: int) -> int:
        """Where the first `ids` ids end in `text`."""
        return self._span(ids - 1)[1] if ids else 0

    def _span(self, index: int) -> tuple[int, int]:
        span: tuple[int, int] | None = self._encoding.token_to_chars(index)
        return span or (0, 0)


def join(
    suffix: Suffix, sampled: TokenIds, finish: FinishReason, *, tokens: Tokens, stop_ids: Set[int]
) -> Joint:
    """Find how much of `suffix` the tokens `sampled` int32[m] already hold.

    If `sampled` ends with a head of the suffix, the longest such head counts as sampled, provided that it
    holds a control token or the whole close: ordinary text that ends as the suffix begins does not end a
    turn. Any other stop id at the end of `sampled` replaces the close.
    """
    held = _overlap(suffix, sampled, tokens)
    if held:
        return Joint(suffix.end_of(held), held, max(suffix.close_ids - held, 0))
    whole = suffix.end_of(suffix.close_ids) == len(suffix.close_text)
    closed = Joint(len(suffix.close_text), suffix.close_ids if whole else None)
    if len(sampled) and int(sampled[-1]) in stop_ids:
        own = int(sampled[-1]) in suffix.ids[: suffix.close_ids]
        return closed if own else Joint(closed.characters, closed.ids, notes=(FOREIGN_CLOSE,))
    if _ends_with_close(suffix, sampled, tokens):
        return closed
    notes = (UNREPORTED_STOP,) if finish is FinishReason.STOP else ()
    return Joint(close_ids=suffix.close_ids, closed=False, notes=notes)


def _overlap(suffix: Suffix, sampled: TokenIds, tokens: Tokens) -> int:
    head: list[int] = suffix.ids[: len(sampled)].tolist()
    tail: list[int] = sampled[-len(head) :].tolist()
    for size in range(len(head), 0, -1):
        if head[size - 1] != tail[-1] or head[:size] != tail[-size:]:
            continue
        if 0 < suffix.close_ids <= size or not tokens.control_ids.isdisjoint(head[:size]):
            return size
    return 0


def _ends_with_close(suffix: Suffix, sampled: TokenIds, tokens: Tokens) -> bool:
    """True for a close in plain text that the policy spelled in other tokens than the template's."""
    close = suffix.close_text
    if not close or not tokens.control_ids.isdisjoint(suffix.ids[: suffix.close_ids].tolist()):
        return False
    # A token holds at least one byte and a character at most four: this many tokens spell the close.
    return tokens.decode(sampled[-4 * len(close) :]).endswith(close)
