"""The numbers of a finished or running run. Reads the log once, one group in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atropos_agent.errors import RecordError
from atropos_agent.export import Rules, is_mixed, rows_of, sequences_left_out, trainable
from atropos_agent.record import GroupRecord, read_groups
from atropos_agent.record.log import ZERO_VARIANCE
from atropos_agent.trajectory import AgentResult, Rollout


@dataclass(slots=True, eq=False)
class RunSummary:
    """Counts over all recorded groups. Tokens are sampled tokens; times are seconds since the epoch.

    Where several agents took part in a rollout, `tokens` and `turns` are those of all of them, and `scores`
    and `stop_reasons` count each trainable one. `mixed_groups` have at least two different scores;
    `groups_without_data` give a trainer no row, `untrained_groups` only rows without a loss. `trained_tokens`
    are those with a loss in the rows of delivered groups. `steps_by_provenance` and `logprobs` tell how much
    of the record is exact: of the `tracked_tokens`, how many have a logprob. `breaks` counts the
    training sequences that begin where history was rewritten, by kind; `sequences_left_out` those of
    rollouts with several that no group delivers.
    """

    groups: int = 0
    mixed_groups: int = 0
    groups_without_data: int = 0
    untrained_groups: int = 0
    rollouts: int = 0
    tool_calls: int = 0
    parse_errors: int = 0
    trained_tokens: int = 0
    tracked_tokens: int = 0
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
            # Rollouts overlap: count only the part after the latest end so far.
            elapsed_s += max(end - max(start, until), 0.0)
            until = max(until, end)
        return elapsed_s

    def shortfalls(self, asked: int) -> list[str]:
        """Each reason why a trainer gets less than the `asked` groups; empty if it gets them all."""
        held_back, missing = self.dropped[ZERO_VARIANCE], asked - self.groups
        reasons: list[str] = []
        if missing > 0:
            reasons.append(f"{missing} of {asked} requested groups are not recorded")
        if self.groups_without_data:
            kinds = ", ".join(f"{k} {n}" for k, n in self.dropped.most_common() if k != ZERO_VARIANCE)
            reasons.append(f"{self.groups_without_data} groups have no trainable data ({kinds})")
        if held_back:
            reasons.append(f"{held_back} groups are dropped: equal rewards (collect.zero_variance=drop)")
        if (count := self.untrained_groups) and not self.trained_tokens:
            reasons.append(f"{count} groups train no token: token limits cut all their rollouts")
        return reasons

    @property
    def started_at(self) -> float | None:
        """When the first rollout began; None without any time."""
        return min((start for start, _ in self.intervals), default=None)


def summarise(run_path: Path | str) -> RunSummary:
    """The numbers of the run at `run_path`. Raises RunDirectoryError."""
    return summary_of(read_groups(run_path), Rules.recorded(run_path))


def summary_of(groups: Iterable[GroupRecord], rules: Rules) -> RunSummary:
    """The numbers of `groups`, which are read once; `rules` say what a trainer gets of them."""
    summary = RunSummary()
    for record in groups:
        summary.groups += 1
        try:
            rows = rows_of(record.group, rules)
        except RecordError:
            summary.groups_without_data += 1
        else:
            trained = sum(row.trained_tokens for row in rows)
            summary.mixed_groups += is_mixed(rows)
            summary.sequences_left_out += sequences_left_out(record.group, rows)
            if record.dropped != ZERO_VARIANCE:
                summary.trained_tokens += trained
                summary.untrained_groups += trained == 0
        if record.dropped is not None:
            summary.dropped[record.dropped] += 1
        for rollout in record.rollouts:
            _count(summary, rollout)
    return summary


def _count(summary: RunSummary, rollout: Rollout) -> None:
    results = [trace.result for trace in rollout.traces]
    summary.rollouts += 1
    summary.tokens.append(sum(result.total_tokens for result in results))
    summary.turns.append(sum(result.num_steps for result in results))
    for trace in trainable(rollout):
        summary.stop_reasons[trace.result.stop_reason.value] += 1
        if trace.score is not None:
            summary.scores.append(trace.score)
    for result in results:
        _count_result(summary, result)
    _count_isolation(summary, rollout)
    _count_time(summary, rollout)


def _count_result(summary: RunSummary, result: AgentResult) -> None:
    summary.tool_calls += result.total_tool_calls
    summary.breaks.update(found.kind.value for found in result.breaks)
    if result.error_type is not None:
        summary.errors[result.error_type] += 1
    _count_steps(summary, result)


def _count_isolation(summary: RunSummary, rollout: Rollout) -> None:
    backend = rollout.isolation.get("backend")
    if isinstance(backend, str):
        summary.backends[backend] += 1
    summary.unsafe += rollout.isolation.get("unsafe") is True


def _count_steps(summary: RunSummary, result: AgentResult) -> None:
    for step in result.steps:
        summary.steps_by_provenance[(step.span or step.completion).provenance.value] += 1
        summary.parse_errors += len(step.parse_errors)
        if step.completion.model:
            summary.models[step.completion.model] += 1
    for sequence in result.sequences:
        summary.tracked_tokens += int(sequence.own_mask.sum())
        summary.logprobs += int((~np.isnan(sequence.own_logprobs[sequence.own_mask])).sum())


def _count_time(summary: RunSummary, rollout: Rollout) -> None:
    if rollout.started_at > 0:
        summary.intervals.append((rollout.started_at, rollout.started_at + rollout.duration_s))
