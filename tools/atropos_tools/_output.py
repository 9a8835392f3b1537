"""Bytes of a sandbox as text that a policy can read."""

from __future__ import annotations

import re

from atropos_agent.sandbox.protocol import ExecResult

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LONGEST_CHARACTER = 4


def to_text(data: bytes) -> str:
    """UTF-8 with U+FFFD for what is not, and for control characters other than tab and line ends."""
    return _CONTROLS.sub("\ufffd", data.decode("utf-8", "replace"))


def streams(result: ExecResult, budget: int) -> str:
    """Stdout, then stderr under its heading. Each has half of `budget` bytes, and what the other leaves."""
    stdout_room = budget - min(result.stderr_bytes, budget // 2)
    stderr_room = budget - min(result.stdout_bytes, stdout_room)
    stdout = head_and_tail(result.stdout, result.stdout_bytes, stdout_room).rstrip("\n")
    stderr = head_and_tail(result.stderr, result.stderr_bytes, stderr_room).rstrip("\n")
    return "\n[stderr]\n".join((stdout, stderr)).removeprefix("\n") if stderr else stdout


def head_and_tail(data: bytes, total: int, budget: int) -> str:
    """Output of `total` bytes within `budget` bytes, and a line on how much was cut between.

    `data` is all of it, or its first half (rounded up) and its last half of what was kept.
    """
    if total <= budget and total <= len(data):
        return to_text(data)
    head = _whole_characters(data[: min(budget - budget // 2, len(data) - len(data) // 2)])
    tail = _from_first_character(data[len(data) - min(budget // 2, len(data) // 2) :])
    cut = total - len(head) - len(tail)
    return f"{to_text(head)}\n[... {cut} bytes cut ...]\n{to_text(tail)}"


def _whole_characters(data: bytes) -> bytes:
    """`data` without the beginning of a character that does not fit in."""
    for length in range(1, min(_LONGEST_CHARACTER, len(data)) + 1):
        first = data[-length]
        if first >= 0xC0:
            size = 2 + (first >= 0xE0) + (first >= 0xF0)
            return data[:-length] if size > length else data
        if first < 0x80:
            break
    return data


def _from_first_character(data: bytes) -> bytes:
    """`data` without the rest of a character that began before it."""
    begins = (index for index, byte in enumerate(data[:_LONGEST_CHARACTER]) if byte & 0xC0 != 0x80)
    return data[next(begins, 0) :]
