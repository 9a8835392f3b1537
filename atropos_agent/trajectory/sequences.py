"""Training sequences: tokens, mask, logprobs, and where a rewritten history branches off.

A sequence that begins like an earlier one holds only its own tokens. Shared tokens are copied from its
parent when they are read, so a conversation whose template rewrites history at every turn needs little
more memory than one that only grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from atropos_agent.errors import RecordError
from atropos_agent.trajectory._lengths import require_equal
from atropos_agent.trajectory.completions import LogprobMode, LogprobProvenance, Provenance
from atropos_agent.trajectory.values import Logprobs, Mask, TokenIds

IGNORED_TOKEN = -100
IGNORED_LOGPROB = 1.0

Scalar = TypeVar("Scalar", bound=np.generic)


class BreakKind(StrEnum):
    """Why a prompt does not begin with all that came before it, so that another sequence was begun.

    `template`: our own rendering of the messages shows the same rewritten history. `retokenisation`: the
    same text in other ids. `other`: neither, or unknown without a tokenizer.
    """

    TEMPLATE = "template"
    RETOKENISATION = "retokenisation"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Break:
    """Where a later sequence of a rollout begins: the first step it holds, and why it was begun."""

    step_number: int
    kind: BreakKind


@dataclass(frozen=True, slots=True)
class StepSpan:
    """The sampled tokens of one step inside a sequence: [start, end), and what is known of them."""

    step_number: int
    start: int
    end: int
    provenance: Provenance
    logprob_provenance: LogprobProvenance
    logprob_mode: LogprobMode


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` tokens of the parent from its index `start` on; here they stand from index `at` on."""

    at: int
    start: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class SequenceData:
    """One training sequence: `token_ids` int32[T], `mask` bool[T] (True where the policy sampled the
    token), `logprobs` float32[T] (NaN where there is none), aligned index by index.

    `own_ids`, `own_mask` and `own_logprobs` leave out what `copies` takes from `parent`: copied tokens are
    context here, never trained. Without a parent they are the whole sequence. `side` holds further arrays of
    length T by name (expert routing, teacher logprobs, entropies). `tokens`, `masked_tokens` and
    `masked_logprobs` are the Atropos views. Raises RecordError for arrays or copies that do not fit.
    """

    own_ids: TokenIds
    own_mask: Mask
    own_logprobs: Logprobs
    spans: tuple[StepSpan, ...] = ()
    parent: SequenceData | None = None
    copies: tuple[Copy, ...] = ()
    side: Mapping[str, NDArray[np.generic]] = field(default_factory=dict[str, NDArray[np.generic]])

    def __post_init__(self) -> None:
        require_equal(
            "SequenceData",
            own_ids=len(self.own_ids),
            own_mask=len(self.own_mask),
            own_logprobs=len(self.own_logprobs),
        )
        self._require_copies()
        for name, values in self.side.items():
            require_equal(f"SequenceData.side[{name!r}]", tokens=len(self), values=len(values))

    def _require_copies(self) -> None:
        if not self.copies:
            return
        known, end, total = 0 if self.parent is None else len(self.parent), 0, len(self)
        for copy in self.copies:
            inside = copy.length > 0 and 0 <= copy.start <= known - copy.length
            # In order and without overlap: `_laid_out` fills the gaps between copies from left to right.
            if not inside or not end <= copy.at <= total - copy.length:
                raise RecordError(f"{copy} does not fit a sequence of {total} and a parent of {known} tokens")
            end = copy.at + copy.length

    def __len__(self) -> int:
        return len(self.own_ids) + sum(copy.length for copy in self.copies)

    @property
    def token_ids(self) -> TokenIds:
        """All ids, int32[T]."""
        if not self.copies:
            return self.own_ids
        # A loop, not recursion: each rewriting adds a parent, and a long run has more than Python's limit.
        line: list[SequenceData] = [self]
        while line[-1].copies and line[-1].parent is not None:
            line.append(line[-1].parent)
        ids = line.pop().own_ids
        for sequence in reversed(line):
            ids = _laid_out(sequence.own_ids, sequence.copies, ids)
        return ids

    @property
    def mask(self) -> Mask:
        """True where the policy sampled the token in this sequence, bool[T]."""
        if not self.copies:
            return self.own_mask
        return _laid_out(self.own_mask, self.copies, np.bool_(False))

    @property
    def logprobs(self) -> Logprobs:
        """The logprob of each sampled token, NaN elsewhere and where there is none, float32[T]."""
        if not self.copies:
            return self.own_logprobs
        # The parent's logprobs are not taken over: copied tokens are context here.
        return _laid_out(self.own_logprobs, self.copies, np.float32(np.nan))

    def own_of(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """The entries of `values`, of length T, at the sequence's own tokens."""
        own = np.ones(len(self), np.bool_)
        for copy in self.copies:
            own[copy.at : copy.at + copy.length] = False
        return values[own]

    @property
    def tokens(self) -> list[int]:
        """The ids as a list."""
        ids: list[int] = self.token_ids.tolist()
        return ids

    @property
    def masked_tokens(self) -> list[int]:
        """The id where the policy sampled it, -100 elsewhere."""
        masked: list[int] = np.where(self.mask, self.token_ids, IGNORED_TOKEN).tolist()
        return masked

    @property
    def has_all_logprobs(self) -> bool:
        """True where every trained token has a logprob."""
        return not bool(np.isnan(self.own_logprobs[self.own_mask]).any())

    @property
    def masked_logprobs(self) -> list[float] | None:
        """The logprob where the policy sampled the token, 1.0 elsewhere; None if any of them is missing."""
        if not self.has_all_logprobs:
            return None
        values: list[float] = np.where(self.mask, self.logprobs, np.float32(IGNORED_LOGPROB)).tolist()
        return values


def _laid_out(
    own: NDArray[Scalar], copies: Sequence[Copy], shared: NDArray[Scalar] | Scalar
) -> NDArray[Scalar]:
    """`own` with the copies between its values: taken from `shared`, an array of the parent or one value."""
    whole = np.empty(len(own) + sum(copy.length for copy in copies), own.dtype)
    at = taken = 0
    for copy in copies:
        gap = copy.at - at
        whole[at : copy.at] = own[taken : taken + gap]
        at, taken = copy.at + copy.length, taken + gap
        end = copy.start + copy.length
        whole[copy.at : at] = shared[copy.start : end] if isinstance(shared, np.ndarray) else shared
    whole[at:] = own[taken:]
    return whole
