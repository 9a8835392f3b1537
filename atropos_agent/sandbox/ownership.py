"""Whose container one is, written so that no process can be taken for an earlier one of the same number."""

from __future__ import annotations

import functools
import os
from pathlib import Path

LABEL = "atropos-agent.owner"
_START_TIME = 19  # of the fields of /proc/PID/stat after the name, counted from 0


def owner_of(pid: int) -> str:
    """A living process: boot of the machine, pid namespace, pid and start time."""
    return f"{_machine()}/{pid}/{_started(pid)}"


def is_gone(other: str) -> bool:
    """True where `other` was a process that we would see if it still lived, and do not see."""
    machine, _, process = other.partition("/")
    pid, _, started = process.partition("/")
    return machine == _machine() and pid.isdigit() and _started(int(pid)) != started


@functools.cache
def _machine() -> str:
    """The same for all processes that see each other, until the next boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot; empty where there is none, or only its corpse."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[_START_TIME - 1]
