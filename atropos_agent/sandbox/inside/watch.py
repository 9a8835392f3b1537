"""Limits that nothing in the kernel holds for us, sampled while a command runs."""

from __future__ import annotations

import os

PERIOD_S = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_exceeds(limit: int) -> bool:
    """True where the processes of this pid namespace but pid 1 hold more than `limit` bytes.

    Resident sizes count shared pages once per process, so a sum above the limit is checked against the
    proportional sizes, which cost more to read.
    """
    pids = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    if sum(_resident(pid) for pid in pids) <= limit:
        return False
    return sum(_proportional(pid) for pid in pids) > limit


def _resident(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:  # gone, or it forbids being looked at
        return _resident(pid)
    return 0


def inodes_exceed(path: str, limit: int) -> bool:
    """True where the file system at `path` holds more than `limit` files."""
    usage = os.statvfs(path)
    return usage.f_files - usage.f_ffree > limit
