"""The rules by which recorded rollouts become rows of training data. Every exporter and `lint` use these.

A row is one training sequence with its score. This module alone decides which sequence of a rewritten history
is taken, how a truncated rollout is used, and which logprobs are those of the behaviour policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

import numpy as np
from pydantic import ValidationError

from atropos_agent.config import EnvConfig
from atropos_agent.errors import AmbiguousTrajectory, RecordError, RunDirectoryError, TooFewRows
from atropos_agent.record import read_manifest
from atropos_agent.trajectory import (
    AgentStep,
    LogprobMode,
    Logprobs,
    Rollout,
    RolloutGroup,
    SequenceData,
    StopReason,
    TokenIds,
    Trace,
)

OnBranch: TypeAlias = Literal["refuse", "last", "drop"]
Truncated: TypeAlias = Literal["mask", "score", "drop"]

TRUNCATED_STOPS = frozenset({StopReason.TRUNCATED, StopReason.MAX_TOKENS, StopReason.CONTEXT_LENGTH})
SMALLEST_STD = 1e-8
# Trainers hold scores as float32: a larger finite float64 would become infinite there.
LARGEST_SCORE = float(np.finfo(np.float32).max)

_SETTINGS = ("group_size", "min_group_size", "on_branch", "truncated", "allow_raw_logprobs")


@dataclass(frozen=True, slots=True)
class Rules:
    """How rollouts become rows.

    `on_branch`: a rollout with several training sequences is refused (AmbiguousTrajectory), gives its last
    one, or gives no row. `truncated`: a rollout cut by a token limit keeps its tokens and none is trained
    while its score counts in the baseline, is trained like any other, or is left out of rows and baseline.
    `allow_raw`: logprobs of the model's own distribution are passed on although another was sampled from.
    `min_group_size`: a group is delivered if at least this many of its rollouts are scored and give a row
    (all of them in a smaller group); None: all must be scored and at least one must give a row.
    """

    on_branch: OnBranch = "refuse"
    truncated: Truncated = "mask"
    allow_raw: bool = False
    min_group_size: int | None = None

    @classmethod
    def of(cls, config: EnvConfig) -> Self:
        """Those of an environment's config."""
        return cls(config.on_branch, config.truncated, config.allow_raw_logprobs, config.min_group_size)

    @classmethod
    def recorded(cls, run: Path | str) -> Self:
        """Those that the `run.yaml` of a run names, else the defaults. Raises RunDirectoryError."""
        config = read_manifest(run).get("config")
        env = config.get("env") if isinstance(config, Mapping) else None
        given = {name: env[name] for name in _SETTINGS if name in env} if isinstance(env, Mapping) else {}
        try:
            return cls.of(EnvConfig.model_validate(given))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RunDirectoryError(f"{run}: run.yaml, config.env: {first['loc']}: {first['msg']}") from error

    def is_complete(self, group: RolloutGroup) -> bool:
        """True where enough rollouts of `group` are scored; `rows_of` counts those that give a row."""
        scored = sum(rollout.is_scored for rollout in group.rollouts)
        return scored >= self._needed(group, len(group.rollouts))

    def _needed(self, group: RolloutGroup, default: int) -> int:
        """How many rollouts must be there. A group of one rollout is complete with that one."""
        return default if self.min_group_size is None else min(self.min_group_size, len(group.rollouts))

    def require_enough(self, group: RolloutGroup, rows: Sequence[Row]) -> None:
        """Raise TooFewRows where too few rollouts of `group` are in `rows`."""
        given, needed = len({row.rollout.id for row in rows}), self._needed(group, 1)
        if given < needed:
            raise TooFewRows(
                f"{given} of the {len(group.rollouts)} rollouts of item {group.item_id!r} give a row,"
                f" {needed} must: {self._left_out(group)}"
            )

    def _left_out(self, group: RolloutGroup) -> str:
        """Why traces of `group` give no row, with counts."""
        traces = [trace for rollout in group.rollouts for trace in trainable(rollout)]
        reasons = Counter(filter(None, map(self._why_not, traces)))
        return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "there is none"

    def _why_not(self, trace: Trace) -> str:
        if trace.score is None:
            return "without a score"
        if self.truncated == "drop" and was_truncated(trace):
            return "cut by a token limit (env.truncated: drop)"
        if not _is_tracked(trace):
            return "without sampled tokens"
        several = len(trace.result.sequences) > 1 and self.on_branch == "drop"
        return "with several sequences (env.on_branch: drop)" if several else ""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One training sequence. `trained` is False where its loss is masked as a whole. `advantage` is its score
    minus the mean over the population deviation of all scored traces of its name in the group."""

    rollout: Rollout
    trace: Trace
    score: float
    sequence: SequenceData
    sequence_index: int
    truncated: bool
    trained: bool
    advantage: float

    @property
    def trained_tokens(self) -> int:
        """How many tokens of the row have a loss."""
        return int(self.sequence.mask.sum()) if self.trained else 0

    @property
    def steps(self) -> list[AgentStep]:
        """The steps whose tokens are in the row's sequence."""
        return [step for step in self.trace.result.steps if step.sequence_index == self.sequence_index]

    def labels(self, filler: int) -> TokenIds:
        """The id where the token is trained, `filler` elsewhere, int32[T]."""
        if not self.trained:
            return np.full(len(self.sequence), filler, np.int32)
        return np.where(self.sequence.mask, self.sequence.token_ids, np.int32(filler))

    def logprobs(self, filler: float) -> Logprobs:
        """The logprob where the token is trained, `filler` elsewhere, float32[T]."""
        if not self.trained:
            return np.full(len(self.sequence), filler, np.float32)
        return np.where(self.sequence.mask, self.sequence.logprobs, np.float32(filler))

    def has_usable_logprobs(self, rules: Rules) -> bool:
        """True where each trained token has a logprob that `rules` pass on."""
        if not self.trained:
            return True
        return self.sequence.has_all_logprobs and (rules.allow_raw or self._are_of_the_policy())

    def _are_of_the_policy(self) -> bool:
        """True where each span's logprobs are of the distribution that its tokens were sampled from."""
        sampling = {step.step_number: step.completion.sampling for step in self.steps}
        return all(
            span.logprob_mode is LogprobMode.PROCESSED
            or (span.step_number in sampling and sampling[span.step_number].is_neutral)
            for span in self.sequence.spans
        )


def rows_of(group: RolloutGroup, rules: Rules) -> list[Row]:
    """The rows of the tracked trainable traces of the scored rollouts of `group`, in order; those of one name
    share a baseline.

    Raises AmbiguousTrajectory where `rules` refuse a branch, TooFewRows where too few rollouts give a row,
    and RecordError where a score is not finite as float32.
    """
    scored = [
        (rollout, trace)
        for rollout in group.rollouts
        for trace in trainable(rollout)
        if rollout.is_scored and not (rules.truncated == "drop" and was_truncated(trace))
    ]
    advantages = _advantages(scored)
    rows = [
        _row(rollout, trace, advantage, rules)
        for (rollout, trace), advantage in zip(scored, advantages, strict=True)
        if _is_tracked(trace) and not _is_dropped_branch(rollout, trace, rules.on_branch)
    ]
    rules.require_enough(group, rows)
    return rows


def is_mixed(rows: Sequence[Row]) -> bool:
    """True where the scores of the baseline differ, so that the rows have something to learn from."""
    return any(row.advantage for row in rows)


def trainable(rollout: Rollout) -> list[Trace]:
    """The traces of `rollout` that may be trained on."""
    return [trace for trace in rollout.traces if trace.trainable]


def was_truncated(trace: Trace) -> bool:
    """True where a token limit ended the trace."""
    return trace.result.stop_reason in TRUNCATED_STOPS


def sequences_left_out(group: RolloutGroup, rows: Sequence[Row]) -> int:
    """How many training sequences of scored traces with several of them are in none of `rows`."""
    several = [
        trace
        for rollout in group.rollouts
        for trace in trainable(rollout)
        if trace.score is not None and len(trace.result.sequences) > 1
    ]
    taken = sum(len(row.trace.result.sequences) > 1 for row in rows)
    return sum(len(trace.result.sequences) for trace in several) - taken


def _is_tracked(trace: Trace) -> bool:
    sequences = trace.result.sequences
    return bool(sequences) and len(sequences[-1]) > 0


def _score(rollout: Rollout, trace: Trace) -> float:
    if trace.score is None or not abs(trace.score) <= LARGEST_SCORE:  # `not <=` also catches NaN
        raise RecordError(f"rollout {rollout.id!r} has score {trace.score}; it must be finite as float32")
    return float(trace.score)


def _advantages(scored: Sequence[tuple[Rollout, Trace]]) -> Iterator[float]:
    """One for each trace, from the scores of all traces of its name."""
    scores: dict[str, list[float]] = {}
    for rollout, trace in scored:
        scores.setdefault(trace.name, []).append(_score(rollout, trace))
    scaled = {name: iter(_normalised(values)) for name, values in scores.items()}
    return (next(scaled[trace.name]) for _, trace in scored)


def _normalised(scores: Sequence[float]) -> list[float]:
    values = np.array(scores, dtype=np.float64)
    if (values == values[0]).all():
        return [0.0] * len(scores)  # the rounding error of a large mean would become an advantage
    centred = values - values.mean()
    scaled: list[float] = (centred / max(float(values.std()), SMALLEST_STD)).tolist()
    return scaled


def _is_dropped_branch(rollout: Rollout, trace: Trace, on_branch: OnBranch) -> bool:
    count = len(trace.result.sequences)
    if count > 1 and on_branch == "refuse":
        raise AmbiguousTrajectory(
            f"rollout {rollout.id!r} has {count} training sequences and one row per rollout is asked for;"
            ' choose on_branch="last" or "drop", or keep its history in append mode'
        )
    return count > 1 and on_branch == "drop"


def _row(rollout: Rollout, trace: Trace, advantage: float, rules: Rules) -> Row:
    truncated = was_truncated(trace)
    sequences = trace.result.sequences
    return Row(
        rollout=rollout,
        trace=trace,
        score=_score(rollout, trace),
        sequence=sequences[-1],
        sequence_index=len(sequences) - 1,
        truncated=truncated,
        trained=not (truncated and rules.truncated == "mask"),
        advantage=advantage,
    )
