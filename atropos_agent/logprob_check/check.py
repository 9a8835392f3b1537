"""One pass over a run: recompute logprobs where possible, and collect the differences by origin and turn."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from atropos_agent.logprob_check.distribution import Distribution, Gathered, Worst, histogram
from atropos_agent.logprob_check.recorded import Origin, Skipped, Step, steps
from atropos_agent.logprob_check.teacher import Teacher
from atropos_agent.record import GroupRecord, read_groups
from atropos_agent.record.durable import write_whole
from atropos_agent.record.jsonl import encode_line, free_json
from atropos_agent.record.rundir import LOGPROB_CHECK
from atropos_agent.trajectory import Json, Logprobs, SequenceData

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class OriginCheck:
    """The differences of steps of one origin: overall, per turn (counted from 1), and as (lower edge, count)
    per half decade."""

    origin: Origin
    overall: Distribution
    turns: dict[int, Distribution]
    histogram: list[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class LogprobCheck:
    """The differences between the recorded logprobs of `groups` groups and those of `teacher`; tokens that
    were not compared are counted by reason."""

    teacher: str
    groups: int
    origins: tuple[OriginCheck, ...]
    skipped: dict[Skipped, int]

    @property
    def compared(self) -> int:
        """Tokens compared."""
        return sum(found.overall.count for found in self.origins)

    def to_json(self) -> dict[str, Json]:
        """The record as `logprob_check.json` holds it."""
        return {
            "schema": SCHEMA,
            "checked_at": time.time(),
            "teacher": self.teacher,
            "groups": self.groups,
            "compared": self.compared,
            "skipped": {reason.value: count for reason, count in self.skipped.items()},
            "origins": [_origin_json(found) for found in self.origins],
        }

    def write(self, run_path: Path) -> Path:
        """Write `logprob_check.json` into the run; `write_report` shows it. Returns its path."""
        file = run_path / LOGPROB_CHECK
        write_whole(file, encode_line(self.to_json()).decode())
        return file


async def check_run(run_path: Path | str, teacher: Teacher) -> LogprobCheck:
    """Compare every recorded logprob of the run at `run_path` with `teacher`. One group in memory.

    Raises RunDirectoryError, and what `teacher` raises.
    """
    checking, groups = _Checking(teacher), 0
    for record in read_groups(run_path):
        await checking.add(record)
        groups += 1
    return checking.result(groups)


class _Checking:
    """The differences so far."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._gathered: defaultdict[tuple[Origin, int], Gathered] = defaultdict(Gathered)
        self._skipped: Counter[Skipped] = Counter()

    async def add(self, record: GroupRecord) -> None:
        """Recompute one group: each sequence once for each temperature its steps were sampled at."""
        asked: defaultdict[float, list[Step]] = defaultdict(list)
        for step in (step for rollout in record.rollouts for step in steps(rollout)):
            temperature = step.temperature(any_temperature=self._teacher.any_temperature)
            if np.isnan(_recorded(step)).all():
                self._skip(Skipped.ABSENT, step.span.end - step.span.start)
            elif isinstance(temperature, Skipped):
                self._skip(temperature, step.span.end - step.span.start)
            else:
                asked[temperature].append(step)
        for temperature, at_it in asked.items():
            # Steps of one sequence share one forward pass.
            sequences = _distinct(step.sequence for step in at_it)
            scored = await self._teacher.logprobs([held.token_ids for held in sequences], temperature)
            found = {id(held): values for held, values in zip(sequences, scored, strict=True)}
            for step in at_it:
                self._compare(record, step, found[id(step.sequence)])

    def result(self, groups: int) -> LogprobCheck:
        """All of it, per origin and turn."""
        origins = sorted({origin for origin, _ in self._gathered})
        checks = tuple(self._origin(origin) for origin in origins)
        return LogprobCheck(self._teacher.name, groups, checks, dict(self._skipped))

    def _origin(self, origin: Origin) -> OriginCheck:
        turns = {turn: held for (of, turn), held in sorted(self._gathered.items()) if of == origin}
        overall = Gathered()
        for held in turns.values():
            assert held.worst is not None
            overall.add(held.values, held.worst)
        by_turn = {turn: held.distribution() for turn, held in turns.items()}
        return OriginCheck(origin, overall.distribution(), by_turn, histogram(overall.values))

    def _compare(self, record: GroupRecord, step: Step, scored: Logprobs) -> None:
        span, recorded = step.span, _recorded(step)
        recomputed = scored[span.start : span.end]
        absent, unscored = np.isnan(recorded), np.isnan(recomputed)
        self._skip(Skipped.ABSENT, int(absent.sum()))
        self._skip(Skipped.NOT_RECOMPUTED, int((unscored & ~absent).sum()))
        places = np.flatnonzero(~(absent | unscored))
        if not len(places):
            return
        off = np.abs(recorded[places] - recomputed[places])
        at = int(places[off.argmax()])
        worst = Worst(
            item_id=record.item_id,
            repetition=record.repetition,
            rollout_id=step.rollout.id,
            sequence_index=step.sequence_index,
            step_number=span.step_number,
            token_index=span.start + at,
            token_id=int(step.sequence.token_ids[span.start + at]),
            recorded=float(recorded[at]),
            recomputed=float(recomputed[at]),
        )
        self._gathered[Origin.of(span), span.step_number].add(off, worst)

    def _skip(self, reason: Skipped, tokens: int) -> None:
        if tokens:
            self._skipped[reason] += tokens


def _recorded(step: Step) -> Logprobs:
    return step.sequence.logprobs[step.span.start : step.span.end]


def _distinct(sequences: Iterable[SequenceData]) -> Sequence[SequenceData]:
    return list({id(sequence): sequence for sequence in sequences}.values())


def _origin_json(found: OriginCheck) -> dict[str, Json]:
    return {
        "provenance": found.origin.provenance.value,
        "logprob_provenance": found.origin.logprob_provenance.value,
        "logprob_mode": found.origin.logprob_mode.value,
        "overall": free_json(asdict(found.overall)),
        "turns": [{"turn": turn, **asdict(held)} for turn, held in found.turns.items()],
        "histogram": [[edge, count] for edge, count in found.histogram],
    }
