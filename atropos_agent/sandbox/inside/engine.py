"""The cgroup that a container engine has put this container into, as seen from inside."""

from __future__ import annotations

import os
from typing import NamedTuple

_ROOT = "/sys/fs/cgroup"
_UNLIMITED = 1 << 60


class EngineGroup(NamedTuple):
    """What the group really limits; None where it does not. `version` is 0 where no group can be seen."""

    version: int
    memory_bytes: int | None
    processes: int | None
    cpus: float | None

    @classmethod
    def of_this_container(cls) -> EngineGroup:
        """Read the limits in force, which may differ from what the engine was asked for."""
        if os.path.exists(f"{_ROOT}/cgroup.controllers"):
            quota, _, period = _read("cpu.max").partition(" ")
            return cls(2, _number(_read("memory.max")), _number(_read("pids.max")), _ratio(quota, period))
        quota, period = _read("cpu/cpu.cfs_quota_us"), _read("cpu/cpu.cfs_period_us")
        memory = _number(_read("memory/memory.limit_in_bytes"))
        processes = _number(_read("pids/pids.max"))
        version = 0 if memory is None else 1
        return cls(version, memory, processes, _ratio(quota, period))

    def holds_memory(self, limit: int) -> bool:
        """True where the kernel grants no more than `limit` bytes."""
        return self.memory_bytes is not None and self.memory_bytes <= limit

    def holds_processes(self, limit: int) -> bool:
        """True where the kernel grants no more than `limit` processes."""
        return self.processes is not None and self.processes <= limit

    def memory_kills(self) -> int:
        """How often the kernel killed a process of this container for want of memory."""
        words = _read("memory.events" if self.version == 2 else "memory/memory.oom_control").split()
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0

    def described(self) -> dict[str, object]:
        """For the host."""
        return {
            "version": self.version,
            "memory_bytes": self.memory_bytes,
            "processes": self.processes,
            "cpus": self.cpus,
        }


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _ratio(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(name: str) -> str:
    """A small file of the group; empty where there is none."""
    try:
        with open(f"{_ROOT}/{name}", "rb", buffering=0) as file:
            return file.read(4096).decode("ascii").strip()
    except OSError:
        return ""
