"""Sealing: the live log of a run becomes one more segment.

Each step is atomic: the segment is written under another name, it is renamed to its place, and an empty live
log replaces the old one. A group is recorded once, so a group found in both means that the last step is
missing: readers skip it in the live log, and the next writer removes it there. Only the holder of the lock
seals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atropos_agent.record.durable import named, replacing, sync_directory, unfinished
from atropos_agent.record.jsonl import encode_line
from atropos_agent.record.log import GROUPS, checked_lines, key_of, live_lines, rows_of, segments
from atropos_agent.record.segments import SEGMENTS, Row, segment_keys, segment_rows, write_segment
from atropos_agent.trajectory import GroupKey


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one seal did: how many rollouts, and their size in bytes before and after."""

    rollouts: int
    live_bytes: int
    segment_bytes: int


def seal_live(run: Path) -> Sealed:
    """Move the live log of `run` into a new segment. Raises RunDirectoryError, with the log as it was."""
    live, folder = run / GROUPS, run / SEGMENTS
    with named(live, "cannot be sealed"):
        live_bytes = live.stat().st_size
        if not live_bytes:
            return Sealed(0, 0, 0)
        if not folder.exists():
            folder.mkdir()
            sync_directory(run)
        first = sum(segment_rows(segment) for segment in segments(run))
        # Named by the offset of its first row, so that sorting the names sorts the rows.
        target = folder / f"{first:012}.parquet"
        with replacing(target) as file:
            # Without groups that a seal which failed at its last step has already moved.
            rollouts = write_segment(file, _live_rows(live, segments(run)))
        with replacing(live):
            pass  # replaced, not truncated: a reader that has the old log open keeps its lines
        return Sealed(rollouts, live_bytes, target.stat().st_size)


def _live_rows(live: Path, sealed: list[Path]) -> Iterator[Row]:
    with live.open("rb") as lines:
        for line in live_lines(lines, live, sealed):
            yield from rows_of(line)


def finish_seal(run: Path) -> set[GroupKey]:
    """Complete or undo the steps of a killed seal. Returns the recorded groups. Raises RunDirectoryError,
    OSError."""
    live, sealed = run / GROUPS, segments(run)
    for left in (run / SEGMENTS).glob(unfinished(Path("*.parquet")).name):
        left.unlink()
    unfinished(live).unlink(missing_ok=True)
    finished = {key for segment in sealed for key in segment_keys(segment)}
    if not live.exists():
        return finished
    with live.open("rb") as lines:
        keys = [key_of(line) for line in checked_lines(lines, live)]
    if not finished.isdisjoint(keys):
        with live.open("rb") as lines, replacing(live) as file:
            for line in live_lines(lines, live, sealed):
                file.write(encode_line(line))
    return finished.union(keys)
