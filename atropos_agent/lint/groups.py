"""Checks of a whole group and of groups against each other: variance, size, repeated trajectories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from atropos_agent.lint.findings import Finding
from atropos_agent.lint.rows import Row


def check_group(scores: Sequence[Any]) -> Iterator[Finding]:
    """Findings for a group in which every advantage is 0."""
    if len(scores) == 1:
        yield Finding("group-of-one", "a group of one rollout has no baseline: its advantage is always 0")
    elif scores and len(set(map(repr, scores))) == 1:
        yield Finding("zero-variance", f"all {len(scores)} scores are {scores[0]!r}: every advantage is 0")


class Sizes:
    """Group sizes of one file; each size other than the usual one is reported once, at the end."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._first_line: dict[int, int] = {}

    def add(self, line: int, size: int) -> None:
        """Count the group on `line`."""
        self._counts[size] = self._counts.get(size, 0) + 1
        self._first_line.setdefault(size, line)

    def odd(self, file: str) -> Iterator[Finding]:
        """One finding for each size that is not the most common."""
        if not self._counts:
            return
        usual = max(self._counts, key=lambda size: self._counts[size])
        for size, count in self._counts.items():
            if size not in (usual, 1):  # a group of one has a finding of its own
                text = f"{count} groups of {size}, the others have {usual}: an Atropos server keeps them back"
                yield Finding("group-size-differs", text).at(file, self._first_line[size])


class Seen:
    """The trajectories seen so far: 16 bytes and a place each."""

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[int, int]] = {}

    def check(self, row: Row, line: int) -> Iterator[Finding]:
        """A finding if the same tokens were seen earlier in the file."""
        digest = hashlib.blake2b(row.ids.tobytes(), digest_size=16).digest()
        place = self._places.setdefault(digest, (line, row.index))
        if place == (line, row.index):
            return
        if place[0] == line:
            text = f"the same tokens as trajectory {place[1]}: one sample counts twice; is one seed shared?"
            yield Finding("duplicate-in-group", text, row.index)
        else:
            text = f"the same tokens as line {place[0]}, trajectory {place[1]}"
            yield Finding("duplicate-in-file", text, row.index)
