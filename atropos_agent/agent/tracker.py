"""Steps become training sequences: tokens, mask, logprobs, provenance. Knows no server.

One buffer per sequence; steps hold offsets into it. A new sequence begins only where a prompt does not
extend what was seen before; the finished ones are kept and delivered. A token is trained in the sequence
it was sampled in, and is context in any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from atropos_agent.policy.protocol import Decode, Prompt
from atropos_agent.renderer import Bridge
from atropos_agent.trajectory import (
    Break,
    BreakKind,
    Completion,
    Logprobs,
    Message,
    SequenceData,
    StepSpan,
    TokenIds,
    branch_of,
)


@dataclass(slots=True)
class _Open:
    """A sequence that still grows: where its sampled tokens lie, their logprobs, and why it was begun
    (None for a rollout's first)."""

    kind: BreakKind | None = None
    spans: list[StepSpan] = field(default_factory=list[StepSpan])
    logprobs: list[Logprobs | None] = field(default_factory=list["Logprobs | None"])


class Tracker:
    """The token record of one rollout. `prompt` is the prompt of the next completion."""

    __slots__ = ("_breaks", "_finished", "_open", "prompt")

    def __init__(self, messages: Sequence[Message], ids: TokenIds | None = None, text: str = "") -> None:
        self.prompt: Prompt = Prompt(messages)
        self._open = _Open()
        self._finished: list[SequenceData] = []
        self._breaks: list[Break] = []
        if ids is not None:
            self.prompt.extend(ids, text)

    @property
    def sequence_index(self) -> int:
        """The index, in `sequences()`, of the sequence that still grows."""
        return len(self._finished)

    def follow_server_prompt(self, ids: TokenIds, kind: Callable[[TokenIds], BreakKind]) -> None:
        """Adopt the prompt that the server rendered itself. If it does not extend ours, begin another
        sequence; `kind` gives the reason."""
        known = self.prompt.ids
        if len(ids) >= len(known) and np.array_equal(ids[: len(known)], known):
            self.prompt.extend(ids[len(known) :])
        else:
            self.begin(ids, "", kind(ids) if self._open.spans else BreakKind.OTHER)

    def begin(self, ids: TokenIds, text: str, kind: BreakKind) -> None:
        """Keep what was sampled so far and begin another sequence, with the prompt `ids` int32[n]."""
        prompt = Prompt(self.prompt.messages, self.prompt.tools)
        prompt.extend(ids, text)
        if self._open.spans:  # without a sampled token there is nothing to train: only the prompt changes
            self._finished.append(self._close())
            self._open = _Open(kind)
        self.prompt = prompt

    def add_completion(self, step_number: int, completion: Completion, text: str | Decode) -> StepSpan:
        """Append the sampled ids of one step, and their raw text or what decodes them. Returns their span."""
        assert completion.token_ids is not None
        start = len(self.prompt)
        self.prompt.extend(completion.token_ids, text)
        span = StepSpan(
            step_number,
            start,
            len(self.prompt),
            completion.provenance,
            completion.logprob_provenance,
            completion.logprob_mode,
        )
        if self._open.kind is not None and not self._open.spans:
            # Only now is it certain that the sequence will be delivered, so that breaks match sequences.
            self._breaks.append(Break(step_number, self._open.kind))
        self._open.spans.append(span)
        self._open.logprobs.append(completion.logprobs)
        return span

    def add_bridge(self, bridge: Bridge) -> None:
        """Append what the template puts between the completion and the next one; never trained."""
        self.prompt.extend(bridge.ids, bridge.text)

    def sequences(self) -> tuple[SequenceData, ...]:
        """All sequences so far, each cut after its last sampled token."""
        current = (self._close(),) if self._open.spans else ()
        return (*self._finished, *current)

    def adopt(self, sequences: Sequence[SequenceData]) -> None:
        """Take over the logprobs of `sequences`, which are ours with other logprobs and their provenance."""
        if not self._open.spans:
            self._finished = list(sequences)
            return
        *self._finished, last = sequences
        values = last.logprobs
        self._open.spans = list(last.spans)
        self._open.logprobs = [values[span.start : span.end] for span in last.spans]

    def breaks(self) -> tuple[Break, ...]:
        """Why each sequence but the first was begun."""
        return tuple(self._breaks)

    def _close(self) -> SequenceData:
        length = self._open.spans[-1].end
        mask = np.zeros(length, np.bool_)
        logprobs = np.full(length, np.nan, np.float32)
        for span, values in zip(self._open.spans, self._open.logprobs, strict=True):
            mask[span.start : span.end] = True
            if values is not None:
                logprobs[span.start : span.end] = values
        ids, spans = self.prompt.ids[:length], tuple(self._open.spans)
        if self._finished:
            return branch_of(self._finished[-1], ids, mask, logprobs, spans)
        return SequenceData(ids.copy(), mask, logprobs, spans)
