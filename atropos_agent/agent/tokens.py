"""The token ids of a completion: the server's, or a reconstruction that is labelled as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from atropos_agent.errors import MalformedReply
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import (
    Completion,
    FinishReason,
    LogprobProvenance,
    Message,
    Provenance,
    completed,
)

REASONING_REJOINED = "reasoning_rejoined"


def resolve_tokens(
    completion: Completion, renderer: Renderer | None, messages: Sequence[Message] = ()
) -> Completion:
    """Give a completion its token ids, and the text that those ids spell.

    Ids from the server stay. Ids from per-token entries are checked against the text. Otherwise the text is
    tokenised (provenance `retokenized`, no logprobs), and the template's end of turn is appended where the
    completion ended by itself. Reasoning that the server kept apart is part of those ids: as the template
    shows it after `messages`, or else as the dialect writes it.

    Without a renderer nothing is rebuilt. Raises MalformedReply for ids that cannot have been sampled: ids
    outside the vocabulary, or two ends of the turn in a row.
    """
    if renderer is None:
        return completion
    _require_known(completion, renderer)
    resolved = _resolved(completion, renderer, messages)
    _require_one_end(resolved, renderer)
    return resolved


def _resolved(completion: Completion, renderer: Renderer, messages: Sequence[Message]) -> Completion:
    parsed = completion.reasoning or completion.calls
    if parsed and (completion.token_ids is not None or completion.token_bytes is not None):
        # The tokens spell everything that was sampled: decoding restores what the server parsed out.
        completion = replace(completion, reasoning="", calls=())
    if completion.provenance is Provenance.SAMPLED and completion.token_ids is not None:
        text = renderer.decode_completion(completion.token_ids)
        if text == completion.text:
            return completion
        # An engine may give ids alone, or leave the end of the turn in the text.
        differs = completion.text and completion.text != renderer.decode(completion.token_ids)
        notes = ("server_text_differs",) if differs else ()
        return replace(completion, text=text, notes=completion.notes + notes)
    rebuilt = _from_bytes(completion, renderer)
    if rebuilt.token_ids is not None:
        text = renderer.decode_completion(rebuilt.token_ids)
        if completion.text in (text, renderer.decode(rebuilt.token_ids)):
            return replace(rebuilt, text=text)
    return _retokenize(completion, renderer, messages)


def _require_known(completion: Completion, renderer: Renderer) -> None:
    ids, size = completion.token_ids, renderer.vocabulary_size
    # read as unsigned, a negative id is a huge one
    if ids is not None and len(ids) and ids.view(np.uint32).max() >= size:
        raise MalformedReply(
            f"the server sampled token ids {ids.min()} to {ids.max()}, the tokenizer knows 0 to {size - 1}; "
            "is it the tokenizer of this model?"
        )


def _require_one_end(completion: Completion, renderer: Renderer) -> None:
    """Raise MalformedReply for a doubled stop id: a server that stops at an id cannot sample it again."""
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

    A stop token often has no bytes. It gets its id if there is only one stop id, and is left out otherwise.
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


def _retokenize(completion: Completion, renderer: Renderer, messages: Sequence[Message]) -> Completion:
    spelled, notes = completion.text, completion.notes
    if completion.reasoning:
        spelled = _with_reasoning(completion, renderer, messages)
        notes += (REASONING_REJOINED,)
    ids = renderer.encode(spelled)
    if completion.token_ids is not None or completion.token_bytes is not None:
        notes += ("entries_do_not_spell_text",)
    if renderer.decode(ids) != spelled:
        notes += ("round_trip_differs",)
    text = completion.text
    if len(ids) and int(ids[-1]) in renderer.stop_ids:
        ended = renderer.decode_completion(ids)  # the server left the end of the turn in its text
        text = text[: max(len(text) - (len(spelled) - len(ended)), 0)]
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


def _with_reasoning(completion: Completion, renderer: Renderer, messages: Sequence[Message]) -> str:
    """The policy's text with its reasoning, in the template's format or else the dialect's."""
    message = completed({"role": "assistant", "content": completion.text}, completion)
    shown = renderer.turn_text(messages, message)
    if shown is not None:
        return shown
    marks = renderer.marks
    return f"{marks.reasoning_open}\n{completion.reasoning}\n{marks.reasoning_close}\n\n{completion.text}"
