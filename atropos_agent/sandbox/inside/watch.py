"""Limits that nothing in the kernel holds for us, sampled while a command runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from atropos_agent.sandbox.inside.engine import EngineGroup
from atropos_agent.sandbox.inside.report import Status

PERIOD_S = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Limits:
    """What a slot as a whole may hold; None where the kernel sees to it. `group` is a container's cgroup.

    Of what a program writes, `output_kept` bytes a stream are kept; more than `output_limit` ends it. `cpu_s`
    is for what one command runs.
    """

    def __init__(
        self,
        *,
        workspace: str,
        memory_bytes: int | None,
        inodes: int | None,
        output_kept: int,
        output_limit: int,
        cpu_s: float,
        group: EngineGroup | None,
    ) -> None:
        self.workspace: str = workspace
        self.memory_bytes: int | None = memory_bytes
        self.inodes: int | None = inodes
        self.output_kept: int = output_kept
        self.output_limit: int = output_limit
        self.cpu_s: float = cpu_s
        self._group = group

    def memory_kills(self) -> int:
        """How often the kernel killed something here for want of memory, where the host cannot see that."""
        return 0 if self._group is None else self._group.memory_kills()

    @property
    def watched(self) -> bool:
        """True where one of them can only be held by looking."""
        return self.memory_bytes is not None or self.inodes is not None

    def exceeded(self) -> Status | None:
        """The status that ends what runs, if one does."""
        if self.memory_bytes is not None and _memory_exceeds(self.memory_bytes):
            return "oom"
        if self.inodes is not None and _inodes_exceed(self.workspace, self.inodes):
            return "disk_full"
        return None

    def full(self, directories: tuple[str, ...]) -> bool:
        """True where one of the file systems has no block or no inode left."""
        usages = [os.statvfs(directory) for directory in directories]
        return any(usage.f_bavail == 0 or (usage.f_files > 0 and usage.f_favail == 0) for usage in usages)


def cpu_of_the_living_s() -> float:
    """CPU time of all processes of this pid namespace but pid 1, and of their dead children."""
    ticks = 0
    for pid in _pids():
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


def _memory_exceeds(limit: int) -> bool:
    """True where the processes of this pid namespace but pid 1 hold more than `limit` bytes.

    Resident sizes count shared pages once per process, so a sum above the limit is checked against the
    proportional sizes, which cost more to read.
    """
    pids = list(_pids())
    if sum(_resident(pid) for pid in pids) <= limit:
        return False
    return sum(_proportional(pid) for pid in pids) > limit


def _resident(pid: str) -> int:
    """Resident bytes, read from any thread: the kernel reports 0 once the first thread has ended."""
    sizes = _read(f"/proc/{pid}/statm").split()
    if sizes and int(sizes[1]):
        return int(sizes[1]) * _PAGE
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    others = [_read(f"/proc/{pid}/task/{thread}/statm").split() for thread in threads]
    return max((int(sizes[1]) * _PAGE for sizes in others if sizes), default=0)


def _proportional(pid: str) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) << 10
    return _resident(pid)  # it forbids being looked at, or is gone


def _inodes_exceed(path: str, limit: int) -> bool:
    """True where the file system at `path` holds more than `limit` files."""
    usage = os.statvfs(path)
    return usage.f_files - usage.f_ffree > limit


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit() and name != "1")


def _read(path: str) -> bytes:
    """A small file of /proc; empty where the process is gone or may not be looked at."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(1 << 16)
    except OSError:
        return b""
