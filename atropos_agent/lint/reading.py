"""Reads the lines of a file by any writer: one line in memory, its defects as findings.

A sealed segment is read as the lines from which it was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from atropos_agent.lint.findings import Finding
from atropos_agent.record.log import head
from atropos_agent.record.segments import read_segment

MAX_LINE_BYTES = 1 << 30
SHOWN_BYTES = 60

Object: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, numbered from 1: its object, or None and why there is none."""

    number: int
    value: Object | None
    findings: tuple[Finding, ...] = ()


def read(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """The lines of `path` that are not blank, up to one that is longer than `max_line_bytes`. Raises
    OSError."""
    if path.suffix == ".parquet":
        yield from _sealed(path)
        return
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(max_line_bytes):
            number += 1
            whole = raw.endswith(b"\n")
            if not whole and len(raw) == max_line_bytes:
                text = f"longer than {max_line_bytes} bytes: what follows is not read"
                yield Line(number, None, (Finding("unreadable-line", text),))
                return
            if raw.strip():
                yield _line(number, raw, whole=whole)


def _sealed(path: Path) -> Iterator[Line]:
    groups = groupby(read_segment(path), key=lambda row: (row.item_id, row.repetition))
    for number, ((item_id, repetition), found) in enumerate(groups, 1):
        rows = list(found)
        value: Object = {
            **head(item_id, repetition),
            "rollouts": [row.rollout for row in rows],
            "dropped": rows[0].dropped,
        }
        yield Line(number, value)


def _line(number: int, raw: bytes, *, whole: bool) -> Line:
    try:
        value, has_nan = decode(raw)
    except (ValueError, RecursionError) as error:
        code = "unreadable-line" if whole else "torn-line"
        text = f"not JSON ({_first_line(error)}): a reader stops here; starts with {raw[:SHOWN_BYTES]!r}"
        if not whole:
            text = f"the last line is cut off: its {len(raw)} bytes are lost, or still being written"
        return Line(number, None, (Finding(code, text),))
    if not isinstance(value, dict):
        text = f"a line must hold a JSON object, not {type(value).__name__}"
        return Line(number, None, (Finding("unreadable-line", text),))
    text = "holds NaN or Infinity, which JSON has not: strict readers and the Atropos API refuse the line"
    return Line(number, value, (Finding("nan-literal", text),) if has_nan else ())


def decode(raw: bytes) -> tuple[object, bool]:
    """The value on a line, and whether NaN or an infinity is written in it. Raises ValueError,
    RecursionError."""
    try:
        return orjson.loads(raw), False
    except ValueError:  # orjson refuses NaN and Infinity; json reads them, so that the line can be checked
        pass
    seen: list[str] = []

    def constant(name: str) -> float:
        seen.append(name)
        return float(name.replace("Infinity", "inf"))

    return json.loads(raw, parse_constant=constant), bool(seen)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
