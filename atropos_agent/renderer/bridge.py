"""The results of a renderer: a rendered prompt, and the exact ids that must follow a completion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atropos_agent.renderer.joint import Suffix, join
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import FinishReason, TokenIds

BRIDGE_MISMATCH = "bridge_mismatch"
REASONING_CLOSED = "reasoning_closed"
NON_CANONICAL_JOINT = "non_canonical_joint"


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A conversation with its generation prompt: `ids` int32[n], read-only, of `text`."""

    ids: TokenIds
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Bridge:
    """What is appended after the sampled ids, none of it sampled: `ids` int32[n] of `text`.

    The first `close_ids_added` of them end the turn. `notes` are words that the result counts: foreign_close,
    unreported_stop, reasoning_closed, non_canonical_joint, bridge_mismatch.
    """

    ids: TokenIds
    text: str
    close_ids_added: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """How the template continues after a completion: `text` is its rendering of the whole conversation.

    `bridge` is what `text` adds to the last prompt and the sampled ids; None where the template rewrites
    them. `reasoning_closed`: the completion was cut inside its reasoning, and `text` shows it closed.
    """

    text: str
    bridge: Bridge | None
    reasoning_closed: bool


@dataclass(frozen=True, slots=True)
class Crossing:
    """Makes bridges, from a tokenizer, the marks of the dialect and the end tokens.

    `opens_reasoning`: the generation prompt leaves reasoning open. `canonical`: encoding a suffix alone gives
    the ids that it has in context.
    """

    tokens: Tokens
    marks: Marks
    stop_ids: frozenset[int]
    opens_reasoning: bool
    canonical: bool

    def over(
        self, text: str, close_text: str, sampled: TokenIds, finish: FinishReason, notes: list[str]
    ) -> Bridge:
        """The bridge after `sampled` int32[m]. The template writes `text` after the turn, and it begins with
        `close_text`, the end of the turn. The bridge's notes begin with `notes`."""
        suffix = Suffix(text, close_text, self.tokens)
        joint = join(suffix, sampled, finish, tokens=self.tokens, stop_ids=self.stop_ids)
        text = text[joint.characters :]
        # No boundary of the suffix's own ids lies at the joint: encode the rest by itself.
        ids = self.tokens.encode(text) if joint.ids is None else suffix.ids[joint.ids :]
        notes, close_ids = [*notes, *joint.notes], joint.close_ids
        if finish is not FinishReason.STOP and not joint.closed and self._leaves_reasoning_open(sampled):
            # Cut inside its reasoning. Without the closing tag, all that follows would stand inside it too.
            close = self.tokens.encode(self.marks.reasoning_close)
            ids, text = np.concatenate([close, ids]), f"{self.marks.reasoning_close}{text}"
            close_ids += len(close)
            notes.append(REASONING_CLOSED)
        if not self.canonical and not joint.closed:
            notes.append(NON_CANONICAL_JOINT)
        return Bridge(ids, text, close_ids, tuple(notes))

    def added(self, text: str, before: str, close: str) -> Bridge | None:
        """What `text` adds to `before`, as a bridge; None if `text` does not begin with `before` and `close`
        (the end of a cut reasoning block)."""
        if not text.startswith(before + close):
            return None
        added = text[len(before) :]
        return Bridge(self.tokens.encode(added), added, 0, (REASONING_CLOSED,) if close else ())

    def is_cut_in_reasoning(self, sampled: TokenIds, finish: FinishReason) -> bool:
        """True where `sampled` int32[m] was cut off with its reasoning still open."""
        ended = finish is FinishReason.STOP or not self.stop_ids.isdisjoint(sampled[-1:].tolist())
        return not ended and self._leaves_reasoning_open(sampled)

    def _leaves_reasoning_open(self, sampled: TokenIds) -> bool:
        return self.marks.leaves_open(self.tokens.decode(sampled), begins_open=self.opens_reasoning)
