"""Join an aborted completion and its continuation into one completion with parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.wires.common import require_count
from atropos_agent.trajectory import (
    Completion,
    CompletionPart,
    FinishReason,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    SamplingParams,
    Timings,
)

T = TypeVar("T")

PROVENANCES = (Provenance.SAMPLED, Provenance.FROM_LOGPROBS, Provenance.RETOKENIZED)
LOGPROB_PROVENANCES = (LogprobProvenance.SAMPLED, LogprobProvenance.RESCORED, LogprobProvenance.ABSENT)
LOGPROBS_INCOMPLETE = "logprobs_of_one_part_absent"


def joined(first: Completion, second: Completion) -> Completion:
    """Join `first` with its continuation `second`, whose prompt was the prompt of `first` and all its tokens.

    Ids (or bytes), logprobs and texts are concatenated. If a character was split between the halves, only the
    ids are exact, not the text. If the provenances differ, the lower one applies to all tokens. If one half
    has no logprobs, the result has none, and a note. `sampling` is that of the first request. Each request,
    and each version of the weights in it, is a part: the first part of a request has its prompt count and
    timings, the last one its finish reason. A request that sampled nothing adds its time and notes, no part.

    Raises ValueError for halves that cannot be joined: `first` ended its turn, the sampling differs, the
    tokens are not known, or a server parsed reasoning or calls out of one half. Raises MalformedReply if the
    server continued another prompt, or used another model.
    """
    _require_joinable(first, second)
    _require_same_prompt(first, second)
    timings = _total(first.timings, second.timings)
    notes = tuple(dict.fromkeys((*first.notes, *second.notes)))
    if not _count(second):
        return replace(first, finish_reason=second.finish_reason, timings=timings, notes=notes)
    if not _count(first):
        return replace(second, timings=timings, notes=notes)
    return replace(
        _with_logprobs(_with_tokens(first, second), first, second, notes),
        text=first.text + second.text,
        finish_reason=second.finish_reason,
        provenance=_lower(PROVENANCES, first.provenance, second.provenance),
        usage_completion_tokens=_sum(first.usage_completion_tokens, second.usage_completion_tokens),
        timings=timings,
        weight_version=second.weight_version,
        parts=(*_parts(first, 0), *_parts(second, _count(first))),
    )


def _require_joinable(first: Completion, second: Completion) -> None:
    if first.finish_reason is FinishReason.STOP:
        raise ValueError("a completion that ended its turn cannot go on; join aborted and cut ones")
    if _distribution(first.sampling) != _distribution(second.sampling):
        raise ValueError(f"halves of one completion sampled by {first.sampling} and by {second.sampling}")
    if any(half.token_ids is None and half.token_bytes is None for half in (first, second)):
        raise ValueError("completions without token ids cannot be joined; use a wire that gives ids")
    if (first.token_ids is None) != (second.token_ids is None):
        raise ValueError("one half has token ids, the other only token bytes; resolve both to ids first")
    if any(half.reasoning or half.calls for half in (first, second)):
        raise ValueError("a server that parses reasoning or calls cannot continue half a completion")


def _require_same_prompt(first: Completion, second: Completion) -> None:
    if first.model != second.model:
        raise MalformedReply(f"a completion of {first.model!r} was continued by {second.model!r}")
    if first.usage_prompt_tokens is not None and second.usage_prompt_tokens is not None:
        expected = first.usage_prompt_tokens + _count(first)
        require_count(second.usage_prompt_tokens, expected, "prompt tokens of a continuation", "before it")
    before, after = first.prompt_token_ids, second.prompt_token_ids
    if before is None or after is None or first.token_ids is None:
        return
    if not np.array_equal(after, np.concatenate([before, first.token_ids])):
        raise MalformedReply("the prompt of a continuation is not the first prompt and its completion")


def _with_tokens(first: Completion, second: Completion) -> Completion:
    """`first` with the tokens of both, without logprobs."""
    if first.token_ids is not None and second.token_ids is not None:
        ids = np.concatenate([first.token_ids, second.token_ids])
        return replace(first, token_ids=ids, token_bytes=None, logprobs=None)
    return replace(
        first, token_bytes=(*(first.token_bytes or ()), *(second.token_bytes or ())), logprobs=None
    )


def _with_logprobs(
    whole: Completion, first: Completion, second: Completion, notes: tuple[str, ...]
) -> Completion:
    """`whole` with `notes` and the logprobs of both, or without logprobs if one half has none."""
    if first.logprobs is None or second.logprobs is None:
        lost = first.logprobs is not None or second.logprobs is not None
        notes = tuple(dict.fromkeys((*notes, LOGPROBS_INCOMPLETE))) if lost else notes
        return replace(whole, logprob_provenance=LogprobProvenance.ABSENT, notes=notes)
    same = first.logprob_mode is second.logprob_mode
    return replace(
        whole,
        logprobs=np.concatenate([first.logprobs, second.logprobs]),
        logprob_provenance=_lower(LOGPROB_PROVENANCES, first.logprob_provenance, second.logprob_provenance),
        logprob_mode=first.logprob_mode if same else LogprobMode.UNKNOWN,
        notes=notes,
    )


def _parts(half: Completion, offset: int) -> tuple[CompletionPart, ...]:
    """The parts of `half`, which begins at token `offset` of the whole."""
    # parts from a server tell weight versions only; parts with timings come from an earlier join
    parts = [replace(part, start=part.start + offset) for part in half.parts]
    if parts and parts[0].timings is not None:
        return tuple(parts)
    if not parts:
        sampled = half.usage_completion_tokens
        parts = [CompletionPart(offset, half.weight_version, usage_completion_tokens=sampled)]
    parts = [replace(part, seed=half.sampling.seed) for part in parts]
    parts[0] = replace(parts[0], usage_prompt_tokens=half.usage_prompt_tokens, timings=half.timings)
    parts[-1] = replace(parts[-1], finish_reason=half.finish_reason)
    return tuple(parts)


def _count(half: Completion) -> int:
    tokens = half.token_ids if half.token_ids is not None else half.token_bytes
    return 0 if tokens is None else len(tokens)


def _distribution(sampling: SamplingParams) -> SamplingParams:
    """`sampling` without the seed and token limit, which each request has of its own."""
    return replace(sampling, seed=None, max_tokens=None)


def _lower(order: Sequence[T], first: T, second: T) -> T:
    return max(first, second, key=order.index)


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _total(first: Timings, second: Timings) -> Timings:
    return Timings(
        first.queued_s + second.queued_s,
        first.request_s + second.request_s,
        first.attempts + second.attempts,
    )
