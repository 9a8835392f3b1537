"""The log of a run as rows, one a rollout, in the order they were recorded: sealed segments, then live lines.

A row's offset counts all rollouts before it, unscored ones too, and is the same before and after sealing.
One line of the live log is one group; a group's rollouts are consecutive rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, cast

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.record.codec import SCHEMA_VERSION, rollout_from_json
from atropos_agent.record.durable import named, read_lines
from atropos_agent.record.manifest import require_schema
from atropos_agent.record.segments import SEGMENTS, Row, read_segment, segment_keys, segment_rows
from atropos_agent.trajectory import GroupKey, Json, Rollout, RolloutGroup

GROUPS = "groups.jsonl"
ZERO_VARIANCE = "zero_variance"
"""The only reason for a drop that is not an error: all rewards of the group are equal, and the config drops
such groups."""

_LINE = frozenset({"schema", "item_id", "repetition", "group", "rollouts", "dropped"})
"""What a line holds; `group` was stored by schemas 1 and 2."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupRecord:
    """A recorded group with all its rollouts, unscored ones too. `dropped` says why no trainer gets it."""

    item_id: str
    repetition: int
    rollouts: tuple[Rollout, ...]
    dropped: str | None = None

    @property
    def group(self) -> RolloutGroup:
        """Its rollouts as an environment hands them out."""
        return RolloutGroup(self.item_id, self.repetition, self.rollouts)


def read_groups(path: Path | str) -> Iterator[GroupRecord]:
    """The groups of the run at `path`, in the order they finished, one in memory at a time.

    A line that is still being written is left out. Raises RunDirectoryError, and RecordError for a rollout
    that cannot be read.
    """
    for (item_id, repetition), found in groupby(rows(Path(path)), key=_key_of_row):
        held = list(found)
        yield GroupRecord(item_id, repetition, tuple(map(decoded, held)), held[0].dropped)


def read_rollouts(path: Path | str, start: int = 0) -> Iterator[Rollout]:
    """The rollouts of the run at `path` from row `start` on, in the order they were recorded, one at a time.

    Raises RunDirectoryError, and RecordError for a rollout that cannot be read.
    """
    return map(decoded, rows(Path(path), start))


def decoded(row: Row) -> Rollout:
    """The rollout of a row. Raises RecordError."""
    return rollout_from_json(row.rollout, row.schema)


def rows(run: Path, start: int = 0) -> Iterator[Row]:
    """The rows of the log from offset `start` on, not decoded. Raises RunDirectoryError.

    The live log is opened before the segments are listed: a seal in between moves rows out of a file that
    stays readable here, and what is found in both is read once.
    """
    file, at = run / GROUPS, 0
    with named(file, "cannot be read"), file.open("rb") as live:
        sealed = segments(run)
        for segment in sealed:
            held = segment_rows(segment)
            if at + held > start:
                yield from read_segment(segment, max(start - at, 0))
            at += held
        for line in live_lines(live, file, sealed):
            for row in rows_of(line):
                if at >= start:
                    yield row
                at += 1


def segments(run: Path) -> list[Path]:
    """The sealed segments in the order of their rows."""
    return sorted((run / SEGMENTS).glob("*.parquet"))


def live_lines(live: BinaryIO, file: Path, sealed: list[Path]) -> Iterator[dict[str, Json]]:
    """The lines of the live log that are in no segment: a seal that was killed may leave those that are."""
    known: set[GroupKey] | None = None
    for line in checked_lines(live, file):
        if known is None:  # read only if there is a live line: the keys of a long run take time
            known = {key for segment in sealed for key in segment_keys(segment)}
        if key_of(line) not in known:
            yield line


def checked_lines(lines: BinaryIO, file: Path) -> Iterator[dict[str, Json]]:
    """The whole lines of an open log. Raises RunDirectoryError naming `file` and line."""
    try:
        for line in read_lines(lines):
            require_schema(line.get("schema"), file)
            yield line
    except RunDirectoryError:
        raise
    except RecordError as error:
        raise RunDirectoryError(f"{file}, {error}; restore the file or start a new run") from error


def rows_of(line: Mapping[str, Json]) -> Iterator[Row]:
    """The rollouts on one line. Raises RecordError."""
    item_id, repetition = key_of(line)
    more = {key: value for key, value in line.items() if key not in _LINE}
    for rollout in cast("list[Mapping[str, object]]", line["rollouts"]):
        dropped = cast("str | None", line.get("dropped"))
        yield Row(item_id, repetition, dropped, rollout, cast("int", line["schema"]), more)


def head(item_id: str, repetition: int) -> dict[str, Json]:
    """What every line begins with."""
    return {"schema": SCHEMA_VERSION, "item_id": item_id, "repetition": repetition}


def key_of(line: Mapping[str, Json]) -> GroupKey:
    """Which group a line belongs to. Raises RecordError."""
    item_id, repetition = line.get("item_id"), line.get("repetition")
    if not isinstance(item_id, str) or not isinstance(repetition, int):
        raise RecordError("a line has no `item_id` and `repetition`")
    return item_id, repetition


def _key_of_row(row: Row) -> GroupKey:
    return row.item_id, row.repetition
