"""A group in the shape of Atropos: one row per rollout, -100 and 1.0 where nothing is trained.

Lists that cannot be trusted are left out, never filled in: `inference_logprobs` is absent unless every
trained token of the group has the logprob of the distribution it was sampled from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from atropos_agent.errors import AmbiguousTrajectory, RecordError
from atropos_agent.record.jsonl import short_floats
from atropos_agent.trajectory import (
    IGNORED_LOGPROB,
    IGNORED_TOKEN,
    AgentStep,
    Json,
    LogprobMode,
    Message,
    Rollout,
    RolloutGroup,
    SamplingParams,
    ScoredDataGroup,
    SequenceData,
    StopReason,
)

OnBranch: TypeAlias = Literal["refuse", "last", "drop"]
Truncated: TypeAlias = Literal["mask", "score", "drop"]

TRUNCATED_STOPS = frozenset({StopReason.TRUNCATED, StopReason.MAX_TOKENS, StopReason.CONTEXT_LENGTH})
SMALLEST_STD = 1e-8
LARGEST_SCORE = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One rollout as it enters the group; `trained` is False where its loss is masked as a whole."""

    rollout: Rollout
    score: float
    sequence: SequenceData
    sequence_index: int
    truncated: bool
    trained: bool
    advantage: float


def scored_group(
    group: RolloutGroup,
    *,
    on_branch: OnBranch = "refuse",
    truncated: Truncated = "mask",
    allow_raw: bool = False,
) -> ScoredDataGroup:
    """The scored and tracked rollouts of `group`, in order, as atroposlib takes them.

    A rollout without a score or without tokens gives no row. `on_branch` says what becomes of a rollout
    with several training sequences: an AmbiguousTrajectory, its last one, or no row. `truncated` says what
    becomes of a rollout cut by a token limit: its tokens stay and none is trained while its score still
    counts in the baseline, it is trained like any other, or it is left out of rows and baseline.
    `allow_raw` passes on logprobs of the model's own distribution where another was sampled from.

    `advantages` (score minus mean over population deviation, of all scored rollouts) are written, the same
    at every token, where rows are missing or a rollout has several sequences; else they are None and the
    trainer's own baseline over `scores` is right. Raises RecordError where no row is left, a number is
    not finite (a score: as float32), or lengths differ.
    """
    scored = [rollout for rollout in group.rollouts if rollout.score is not None]
    if truncated == "drop":
        scored = [rollout for rollout in scored if not _was_truncated(rollout)]
    advantages = _advantages([_score(rollout) for rollout in scored])
    rows = [
        _row(rollout, advantage, truncated)
        for rollout, advantage in zip(scored, advantages, strict=True)
        if _is_tracked(rollout) and not _is_dropped_branch(rollout, on_branch)
    ]
    if not rows:
        raise RecordError(
            f"no row for item {group.item_id!r}: of {len(group.rollouts)} rollouts {len(scored)} are scored"
            " and none of them has exactly what was asked for; look at their stop reasons and errors"
        )
    complete = len(rows) == len(group.rollouts) and all(
        len(row.rollout.result.sequences) == 1 for row in rows
    )
    data = _columns(rows, with_advantages=not complete)
    if all(_has_usable_logprobs(row, allow_raw) for row in rows):
        data["inference_logprobs"] = [_logprobs(row) for row in rows]
    check_group(data)
    return data


def _was_truncated(rollout: Rollout) -> bool:
    return rollout.result.stop_reason in TRUNCATED_STOPS


def _is_tracked(rollout: Rollout) -> bool:
    return bool(rollout.result.sequences) and len(rollout.result.sequences[-1]) > 0


def _score(rollout: Rollout) -> float:
    if rollout.score is None or not abs(rollout.score) <= LARGEST_SCORE:
        raise RecordError(f"rollout {rollout.id!r} has score {rollout.score}; it must be finite as float32")
    return float(rollout.score)


def _advantages(scores: Sequence[float]) -> list[float]:
    if not scores:
        return []
    values = np.array(scores, dtype=np.float64)
    centred = values - values.mean()
    scaled: list[float] = (centred / max(float(values.std()), SMALLEST_STD)).tolist()
    return scaled


def _is_dropped_branch(rollout: Rollout, on_branch: OnBranch) -> bool:
    count = len(rollout.result.sequences)
    if count > 1 and on_branch == "refuse":
        raise AmbiguousTrajectory(
            f"rollout {rollout.id!r} has {count} training sequences and Atropos takes one row per rollout;"
            ' choose on_branch="last" or "drop", or keep its history in append mode'
        )
    return count > 1 and on_branch == "drop"


def sequences_left_out(rollouts: Sequence[Rollout], group: ScoredDataGroup) -> int:
    """How many training sequences of scored rollouts with several of them have no row in `group`."""
    several = {
        rollout.id: len(rollout.result.sequences)
        for rollout in rollouts
        if rollout.score is not None and len(rollout.result.sequences) > 1
    }
    return sum(several.values()) - sum(row_id in several for row_id in _row_ids(group))


def _row_ids(group: ScoredDataGroup) -> Iterator[Json]:
    for override in group["overrides"] or ():
        managed = override.get("managed_metadata")
        yield managed["rollout_id"] if isinstance(managed, Mapping) else None


def _row(rollout: Rollout, advantage: float, policy: Truncated) -> _Row:
    was_truncated = _was_truncated(rollout)
    return _Row(
        rollout=rollout,
        score=_score(rollout),
        sequence=rollout.result.sequences[-1],
        sequence_index=len(rollout.result.sequences) - 1,
        truncated=was_truncated,
        trained=not (was_truncated and policy == "mask"),
        advantage=advantage,
    )


def _columns(rows: Sequence[_Row], *, with_advantages: bool) -> ScoredDataGroup:
    common = _common_sampling(rows)
    return {
        "tokens": [row.sequence.tokens for row in rows],
        "masks": [_masks(row) for row in rows],
        "scores": [row.score for row in rows],
        "advantages": [[row.advantage] * len(row.sequence) for row in rows] if with_advantages else None,
        "ref_logprobs": None,
        "messages": [_messages(row.rollout) for row in rows],
        "generation_params": None if common is None else _generation_params(common),
        "group_overrides": {},
        "overrides": [_overrides(row, named=common is None) for row in rows],
        "images": None,
    }


def _masks(row: _Row) -> list[int]:
    return row.sequence.masked_tokens if row.trained else [IGNORED_TOKEN] * len(row.sequence)


def _logprobs(row: _Row) -> list[float]:
    if not row.trained:
        return [IGNORED_LOGPROB] * len(row.sequence)
    sequence = row.sequence
    return short_floats(np.where(sequence.mask, sequence.logprobs, np.float32(IGNORED_LOGPROB)))


def _messages(rollout: Rollout) -> list[Message]:
    return [*rollout.result.prompt_messages, *rollout.result.to_messages()]


def _steps(row: _Row) -> list[AgentStep]:
    """The steps whose tokens are in the row's sequence."""
    return [step for step in row.rollout.result.steps if step.sequence_index == row.sequence_index]


def _has_usable_logprobs(row: _Row, allow_raw: bool) -> bool:
    if not row.trained:
        return True
    return row.sequence.has_all_logprobs and (allow_raw or _are_of_the_policy(row))


def _are_of_the_policy(row: _Row) -> bool:
    """True where each span's logprobs are of the distribution that its tokens were sampled from."""
    sampling = {step.step_number: step.completion.sampling for step in _steps(row)}
    return all(
        span.logprob_mode is LogprobMode.PROCESSED
        or (span.step_number in sampling and sampling[span.step_number].is_neutral)
        for span in row.sequence.spans
    )


def _common_sampling(rows: Sequence[_Row]) -> SamplingParams | None:
    """How all steps of all rows were sampled, seeds apart; None where they differ."""
    kinds = {_unseeded(step.completion.sampling): None for row in rows for step in _steps(row)}
    return next(iter(kinds)) if len(kinds) == 1 else None


def _unseeded(sampling: SamplingParams) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        max_tokens=sampling.max_tokens,
    )


def _generation_params(sampling: SamplingParams) -> dict[str, Json]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_tokens,
    }


def _overrides(row: _Row, *, named: bool) -> dict[str, Json]:
    """What is known of a row: its temperature where the group has no common one (a trainer divides its own
    logits by it), and how its tokens came to be."""
    steps = _steps(row)
    managed: dict[str, Json] = {
        "rollout_id": row.rollout.id,
        "stop_reason": row.rollout.result.stop_reason.value,
        "truncated": row.truncated,
        "sequence_index": row.sequence_index,
        "sequences": len(row.rollout.result.sequences),
        "finish_reasons": [step.completion.finish_reason.value for step in steps],
        "provenance": [span.provenance.value for span in row.sequence.spans],
        "logprob_provenance": [span.logprob_provenance.value for span in row.sequence.spans],
        "logprob_mode": [span.logprob_mode.value for span in row.sequence.spans],
    }
    temperatures = {step.completion.sampling.temperature for step in steps}
    if named and len(temperatures) == 1:
        return {"temperature": temperatures.pop(), "managed_metadata": managed}
    return {"managed_metadata": managed}


def check_group(group: ScoredDataGroup) -> None:
    """Raises RecordError where the lists of `group` differ in length, a mask is neither -100 nor its token,
    or a number is not finite: an Atropos server accepts all of these and breaks its trainer later."""
    tokens = group["tokens"]
    for name in ("masks", "scores", "advantages", "messages", "inference_logprobs", "overrides"):
        column = group.get(name)
        if isinstance(column, list) and len(column) != len(tokens):
            raise RecordError(f"`{name}` has {len(column)} entries for {len(tokens)} rows of tokens")
    if not all(map(math.isfinite, group["scores"])):
        raise RecordError(f"`scores` holds a number that is not finite: {group['scores']}")
    for row, (ids, masks) in enumerate(zip(tokens, group["masks"], strict=True)):
        _require_row("masks", row, len(masks), len(ids))
        held = np.array(masks, dtype=np.int64)
        if not ((held == IGNORED_TOKEN) | (held == np.array(ids, dtype=np.int64))).all():
            raise RecordError(f"`masks[{row}]` holds neither {IGNORED_TOKEN} nor the token itself")
    _check_numbers("advantages", group.get("advantages"), tokens)
    _check_numbers("inference_logprobs", group.get("inference_logprobs"), tokens)


def _check_numbers(
    name: str, rows: Sequence[Sequence[float]] | None, tokens: Sequence[Sequence[int]]
) -> None:
    for index, (numbers, ids) in enumerate(zip(rows or (), tokens, strict=False)):
        _require_row(name, index, len(numbers), len(ids))
        if not np.isfinite(numbers).all():
            raise RecordError(f"`{name}[{index}]` holds a number that is not finite")


def _require_row(name: str, index: int, length: int, tokens: int) -> None:
    if length != tokens:
        raise RecordError(f"`{name}[{index}]` has {length} entries for {tokens} tokens")
