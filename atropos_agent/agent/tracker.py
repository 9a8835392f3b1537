"""Steps become training sequences: tokens, mask, logprobs, provenance. Knows no server.

One buffer per sequence; steps hold offsets into it. A new sequence begins only where a prompt does not
extend what was seen before; the finished ones are kept and delivered. A token is trained in the sequence
it was sampled in, and is context in any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.protocol import Prompt
from atropos_agent.renderer import Bridge, Renderer
from atropos_agent.trajectory import (
    Break,
    BreakKind,
    Completion,
    FinishReason,
    LogprobProvenance,
    Logprobs,
    Message,
    Provenance,
    SequenceData,
    StepSpan,
    TokenIds,
)


def resolve_tokens(completion: Completion, renderer: Renderer | None) -> Completion:
    """Give a completion the token ids that can honestly be had, and the text those ids spell.

    Ids from the server stay. Ids from per-token entries are checked against the text. Otherwise the text is
    tokenised (provenance `retokenized`, no logprobs), with the close that the template writes after a
    completion that ended by itself. Without a renderer nothing is rebuilt. Raises MalformedReply for ids
    that cannot have been sampled: none of the vocabulary, or an end of turn after the end of the turn.
    """
    if renderer is None:
        return completion
    _require_known(completion, renderer)
    resolved = _resolved(completion, renderer)
    _require_one_end(resolved, renderer)
    return resolved


def _resolved(completion: Completion, renderer: Renderer) -> Completion:
    if completion.provenance is Provenance.SAMPLED and completion.token_ids is not None:
        text = renderer.decode_completion(completion.token_ids)
        if text == completion.text:
            return completion
        # an engine may give ids alone, or leave the end of the turn in the text
        differs = completion.text and completion.text != renderer.decode(completion.token_ids)
        notes = ("server_text_differs",) if differs else ()
        return replace(completion, text=text, notes=completion.notes + notes)
    rebuilt = _from_bytes(completion, renderer)
    if rebuilt.token_ids is not None:
        text = renderer.decode_completion(rebuilt.token_ids)
        if text == completion.text or renderer.decode(rebuilt.token_ids) == completion.text:
            return replace(rebuilt, text=text)
    return _retokenize(completion, renderer)


def _require_known(completion: Completion, renderer: Renderer) -> None:
    ids, size = completion.token_ids, renderer.vocabulary_size
    # read as unsigned, a negative id is a huge one
    if ids is not None and len(ids) and ids.view(np.uint32).max() >= size:
        raise MalformedReply(
            f"the server sampled token ids {ids.min()} to {ids.max()}, the tokenizer knows 0 to {size - 1}; "
            "is it the tokenizer of this model?"
        )


def _require_one_end(completion: Completion, renderer: Renderer) -> None:
    """A server that stops at an id never samples it twice at the end of a turn."""
    ids = completion.token_ids
    if completion.finish_reason is not FinishReason.STOP or ids is None or len(ids) < 2:
        return
    before, last = ids[-2:].tolist()
    if before == last and last in renderer.stop_ids:
        raise MalformedReply(
            f"the sampled ids end with {last} twice: a doubled end of turn; the server, or something before "
            "it, adds the end itself"
        )


def _from_bytes(completion: Completion, renderer: Renderer) -> Completion:
    """Turn `token_bytes` into ids where the vocabulary allows it.

    A stop token often has no bytes: it is the stop token where there is only one, and left out otherwise.
    """
    pieces = completion.token_bytes
    if completion.token_ids is not None or pieces is None:
        return completion
    unnamed_stop = completion.finish_reason is FinishReason.STOP and pieces[-1:] == (b"",)
    ids = renderer.ids_from_bytes(pieces[:-1] if unnamed_stop else pieces)
    if ids is None or not unnamed_stop:
        return replace(completion, token_ids=ids)
    if len(renderer.stop_ids) == 1:
        return replace(completion, token_ids=np.append(ids, np.int32(*renderer.stop_ids)))
    logprobs = None if completion.logprobs is None else completion.logprobs[:-1]
    notes = (*completion.notes, "unnamed_stop")
    return replace(completion, token_ids=ids, token_bytes=pieces[:-1], logprobs=logprobs, notes=notes)


def _retokenize(completion: Completion, renderer: Renderer) -> Completion:
    ids = renderer.encode(completion.text)
    notes = completion.notes
    if completion.token_ids is not None or completion.token_bytes is not None:
        notes += ("entries_do_not_spell_text",)
    if renderer.decode(ids) != completion.text:
        notes += ("round_trip_differs",)
    text = completion.text
    if len(ids) and int(ids[-1]) in renderer.stop_ids:
        text = renderer.decode_completion(ids)  # the server left the end of the turn in its text
    elif completion.finish_reason is FinishReason.STOP:
        ids = np.concatenate([ids, renderer.certificate.close_ids])
    return replace(
        completion,
        text=text,
        token_ids=ids,
        token_bytes=None,
        logprobs=None,
        provenance=Provenance.RETOKENIZED,
        logprob_provenance=LogprobProvenance.ABSENT,
        notes=notes,
    )


@dataclass(slots=True)
class _Open:
    """A sequence that still grows: where its sampled tokens lie, their logprobs, and why it was begun
    (None for a rollout's first)."""

    kind: BreakKind | None = None
    spans: list[StepSpan] = field(default_factory=list[StepSpan])
    logprobs: list[Logprobs | None] = field(default_factory=list["Logprobs | None"])


class Tracker:
    """The token record of one rollout. `prompt` is what the next completion is asked for with."""

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
        """The index, in `sequences()`, of the sequence that grows."""
        return len(self._finished)

    def follow_server_prompt(self, ids: TokenIds, kind: Callable[[TokenIds], BreakKind]) -> None:
        """Adopt the prompt that the server rendered itself; where history changed, `kind` says why and
        another sequence is begun."""
        known = self.prompt.ids
        if len(ids) >= len(known) and np.array_equal(ids[: len(known)], known):
            self.prompt.extend(ids[len(known) :])
        else:
            self.begin(ids, "", kind(ids) if self._open.spans else BreakKind.OTHER)

    def begin(self, ids: TokenIds, text: str, kind: BreakKind) -> None:
        """Keep what was sampled so far and begin another sequence, with the prompt `ids` int32[n]."""
        prompt = Prompt(self.prompt.messages, self.prompt.tools)
        prompt.extend(ids, text)
        if self._open.spans:
            self._finished.append(self._close())
            self._open = _Open(kind)
        self.prompt = prompt

    def add_completion(
        self, step_number: int, completion: Completion, text: str | Callable[[], str]
    ) -> StepSpan:
        """Append the sampled ids of one step, and the raw text they spell or what makes it. Returns their
        place."""
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
        return SequenceData(self.prompt.ids[:length].copy(), mask, logprobs, tuple(self._open.spans))
