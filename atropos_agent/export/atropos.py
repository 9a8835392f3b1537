"""A group in the shape of Atropos: one row per rollout, -100 and 1.0 where nothing is trained.

Lists that cannot be trusted are left out, never filled in: `inference_logprobs` is absent unless every
trained token of the group has the logprob of the distribution it was sampled from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from atropos_agent.errors import AmbiguousTrajectory, RecordError
from atropos_agent.export.rows import OnBranch, Row, Rules, Truncated, rows_of, trainable
from atropos_agent.record import read_groups
from atropos_agent.record.jsonl import short_floats
from atropos_agent.record.log import ZERO_VARIANCE
from atropos_agent.trajectory import (
    IGNORED_LOGPROB,
    IGNORED_TOKEN,
    Json,
    Message,
    RolloutGroup,
    SamplingParams,
    ScoredDataGroup,
)

logger: logging.Logger = logging.getLogger(__name__)


def scored_groups(run: Path | str) -> Iterator[ScoredDataGroup]:
    """The groups of the run at `run` for a trainer, by the rules that its `run.yaml` names.

    Groups dropped for equal rewards and incomplete ones are left out; a group that cannot be given the
    Atropos shape is left out with a warning. Raises RunDirectoryError.
    """
    rules = Rules.recorded(run)
    for record in read_groups(run):
        # Other reasons for a drop are not read from the record: the rules below decide again.
        if record.dropped == ZERO_VARIANCE or not rules.is_complete(record.group):
            continue
        try:
            group = shaped(record.group, rules)
        except RecordError as error:
            logger.warning("group %s, repetition %d: %s", record.item_id, record.repetition, error)
        else:
            yield group


def scored_group(
    group: RolloutGroup,
    *,
    on_branch: OnBranch = "refuse",
    truncated: Truncated = "mask",
    allow_raw: bool = False,
) -> ScoredDataGroup:
    """The scored and tracked rollouts of `group`, in order, as atroposlib takes them, by these `Rules`.

    Raises RecordError where no row is left or a number is not finite (a score: as float32), and
    AmbiguousTrajectory where a rollout has several trainable traces or a branch that `on_branch` refuses.
    """
    return shaped(group, Rules(on_branch, truncated, allow_raw))


def shaped(group: RolloutGroup, rules: Rules) -> ScoredDataGroup:
    """`group` by `rules`, as `scored_group` gives it.

    `advantages` (the same at every token of a row) are written where rows are missing or a rollout has
    several sequences; else they are None and the trainer's own baseline over `scores` is right.
    """
    _require_single_traces(group)
    rows = rows_of(group, rules)
    complete = len(rows) == len(group.rollouts) and all(len(row.trace.result.sequences) == 1 for row in rows)
    data = _columns(rows, with_advantages=not complete)
    if all(row.has_usable_logprobs(rules) for row in rows):
        data["inference_logprobs"] = [short_floats(row.logprobs(IGNORED_LOGPROB)) for row in rows]
    check_group(data)
    return data


def _require_single_traces(group: RolloutGroup) -> None:
    for rollout in group.rollouts:
        if len(several := trainable(rollout)) > 1:
            names = ", ".join(trace.name for trace in several)
            raise AmbiguousTrajectory(
                f"rollout {rollout.id!r} has {len(several)} trainable traces ({names}) and Atropos takes one"
                " row per rollout; train on one of them, or use an exporter that takes all"
            )


def _columns(rows: Sequence[Row], *, with_advantages: bool) -> ScoredDataGroup:
    common = _common_sampling(rows)
    return {
        "tokens": [row.sequence.tokens for row in rows],
        "masks": [row.labels(IGNORED_TOKEN).tolist() for row in rows],
        "scores": [row.score for row in rows],
        "advantages": [[row.advantage] * len(row.sequence) for row in rows] if with_advantages else None,
        "ref_logprobs": None,
        "messages": [_messages(row) for row in rows],
        "generation_params": None if common is None else _generation_params(common),
        "group_overrides": {},
        "overrides": [_overrides(row, named=common is None) for row in rows],
        "images": None,
    }


def _messages(row: Row) -> list[Message]:
    result = row.trace.result
    return [*result.prompt_messages, *result.to_messages()]


def _common_sampling(rows: Sequence[Row]) -> SamplingParams | None:
    """How all steps of all rows were sampled, seeds apart; None where they differ."""
    kinds = {replace(step.completion.sampling, seed=None): None for row in rows for step in row.steps}
    return next(iter(kinds)) if len(kinds) == 1 else None


def _generation_params(sampling: SamplingParams) -> dict[str, Json]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_tokens,
    }


def _overrides(row: Row, *, named: bool) -> dict[str, Json]:
    """Data of one row: its temperature if the group has no common one (a trainer divides its own logits by
    it), and the provenance of its tokens."""
    steps = row.steps
    managed: dict[str, Json] = {
        "rollout_id": row.rollout.id,
        "stop_reason": row.trace.result.stop_reason.value,
        "truncated": row.truncated,
        "sequence_index": row.sequence_index,
        "sequences": len(row.trace.result.sequences),
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
