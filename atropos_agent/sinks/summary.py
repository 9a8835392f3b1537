"""What a finished or running run amounts to, in numbers. Reads the log once, one group in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atropos_agent.export import sequences_left_out
from atropos_agent.record.rundir import GroupRecord, read_groups
from atropos_agent.trajectory import Rollout

ZERO_VARIANCE = "zero_variance"
"""The one reason to drop a group that is no error: all its rewards are equal, and that was not wanted."""


@dataclass(slots=True, eq=False)
class RunSummary:
    """Counts over all recorded groups. Tokens are sampled tokens; times are seconds since the epoch.

    `mixed_groups` have at least two different scores; `groups_without_data` give a trainer nothing for an
    error of theirs; `steps_by_provenance` and `logprobs` tell how much of
    the record is exact: tokens the policy sampled, and how many of them have a logprob. `breaks` counts the
    training sequences that begin where history was rewritten, by kind; `sequences_left_out` those of
    rollouts with several that no group delivers.
    """

    groups: int = 0
    mixed_groups: int = 0
    groups_without_data: int = 0
    rollouts: int = 0
    tool_calls: int = 0
    parse_errors: int = 0
    trained_tokens: int = 0
    logprobs: int = 0
    sequences_left_out: int = 0
    unsafe: int = 0
    intervals: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    scores: list[float] = field(default_factory=list[float])
    tokens: list[int] = field(default_factory=list[int])
    turns: list[int] = field(default_factory=list[int])
    models: Counter[str] = field(default_factory=Counter[str])
    backends: Counter[str] = field(default_factory=Counter[str])
    steps_by_provenance: Counter[str] = field(default_factory=Counter[str])
    stop_reasons: Counter[str] = field(default_factory=Counter[str])
    breaks: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    dropped: Counter[str] = field(default_factory=Counter[str])

    @property
    def mean_score(self) -> float | None:
        """Mean over scored rollouts; None where there is none."""
        return sum(self.scores) / len(self.scores) if self.scores else None

    @property
    def elapsed_s(self) -> float | None:
        """How long at least one rollout ran, pauses between sessions left out; None without any time."""
        if not self.intervals:
            return None
        elapsed_s, until = 0.0, 0.0
        for start, end in sorted(self.intervals):
            elapsed_s += max(end - max(start, until), 0.0)
            until = max(until, end)
        return elapsed_s

    @property
    def started_at(self) -> float | None:
        """When the first rollout began; None without any time."""
        return min((start for start, _ in self.intervals), default=None)


def summarise(run_path: Path | str) -> RunSummary:
    """The numbers of the run at `run_path`. Raises RunDirectoryError."""
    return summary_of(read_groups(run_path))


def summary_of(groups: Iterable[GroupRecord]) -> RunSummary:
    """The numbers of `groups`, which are gone through once."""
    summary = RunSummary()
    for record in groups:
        summary.groups += 1
        summary.mixed_groups += is_mixed(record.rollouts)
        summary.groups_without_data += record.group is None or record.dropped not in (None, ZERO_VARIANCE)
        if record.group is not None:
            summary.sequences_left_out += sequences_left_out(record.rollouts, record.group)
        if record.dropped is not None:
            summary.dropped[record.dropped] += 1
        for rollout in record.rollouts:
            _count(summary, rollout)
    return summary


def is_mixed(rollouts: Sequence[Rollout]) -> bool:
    """True where the scored rollouts do not all have the same score."""
    return len({rollout.score for rollout in rollouts if rollout.score is not None}) > 1


def _count(summary: RunSummary, rollout: Rollout) -> None:
    result = rollout.result
    summary.rollouts += 1
    summary.tokens.append(result.total_tokens)
    summary.turns.append(result.num_steps)
    summary.tool_calls += result.total_tool_calls
    summary.stop_reasons[result.stop_reason.value] += 1
    summary.breaks.update(found.kind.value for found in result.breaks)
    if rollout.score is not None:
        summary.scores.append(rollout.score)
    if result.error_type is not None:
        summary.errors[result.error_type] += 1
    _count_isolation(summary, rollout)
    _count_steps(summary, rollout)
    _count_time(summary, rollout)


def _count_isolation(summary: RunSummary, rollout: Rollout) -> None:
    backend = rollout.isolation.get("backend")
    if isinstance(backend, str):
        summary.backends[backend] += 1
    summary.unsafe += rollout.isolation.get("unsafe") is True


def _count_steps(summary: RunSummary, rollout: Rollout) -> None:
    for step in rollout.result.steps:
        summary.steps_by_provenance[(step.span or step.completion).provenance.value] += 1
        summary.parse_errors += len(step.parse_errors)
        if step.completion.model:
            summary.models[step.completion.model] += 1
    for sequence in rollout.result.sequences:
        summary.trained_tokens += int(sequence.mask.sum())
        summary.logprobs += int((~np.isnan(sequence.logprobs[sequence.mask])).sum())


def _count_time(summary: RunSummary, rollout: Rollout) -> None:
    if rollout.started_at > 0:
        summary.intervals.append((rollout.started_at, rollout.started_at + rollout.duration_s))
