"""Looking at real processes through /proc."""

from __future__ import annotations

import time
from pathlib import Path

Identity = tuple[int, int]


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def descendants(root: int) -> set[Identity]:
    """Every process below `root`, as (pid, start time), so that a reused pid is not taken for it."""
    parents: dict[int, list[int]] = {}
    started: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
            started[int(entry.name)] = int(fields[19])
    found, rest = set(), list(parents.get(root, []))
    while rest:
        pid = rest.pop()
        found.add((pid, started[pid]))
        rest += parents.get(pid, [])
    return found


def alive(processes: set[Identity]) -> set[Identity]:
    """Those that still run; a zombie does not."""
    running = set()
    for pid, start in processes:
        fields = _stat(pid)
        if fields is not None and int(fields[19]) == start and fields[0] not in "ZX":
            running.add((pid, start))
    return running


def wait_until_gone(processes: set[Identity], within_s: float) -> set[Identity]:
    """What is left of `processes` after at most `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while (left := alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
