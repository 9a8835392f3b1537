"""A hard memory limit per slot, where the kernel and our rights give one: cgroup v2, else v1, else none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "atropos-"
_REMOVALS = 50
_REMOVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class SlotMemory:
    """The memory cgroup of one slot."""

    path: Path
    version: int

    def add(self, pid: int) -> None:
        """Move a process in; what it starts later is born inside."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How often the kernel killed a process of this group for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        descriptor = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            events = os.read(descriptor, 4096).split()
        finally:
            os.close(descriptor)
        return int(events[events.index(b"oom_kill") + 1]) if b"oom_kill" in events else 0

    def remove(self) -> bool:
        """Remove the group; False where the kernel still counts a dead process in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class MemoryGroups:
    """A place in the cgroup tree below which we may make groups with a memory limit."""

    def __init__(self, parent: Path, version: int) -> None:
        self.parent = parent
        self.version = version
        self._busy: list[SlotMemory] = []

    @property
    def mechanism(self) -> str:
        """How records name it."""
        return f"cgroup-v{self.version}"

    def create(self, limit: int) -> SlotMemory:
        """A group of at most `limit` bytes, swap included. Raises OSError."""
        group = SlotMemory(self.parent / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}", self.version)
        group.path.mkdir()
        main, swap, swap_limit = (
            ("memory.max", "memory.swap.max", 0)
            if self.version == 2
            else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", limit)
        )
        try:
            (group.path / main).write_text(str(limit))
            if (group.path / swap).exists():
                (group.path / swap).write_text(str(swap_limit))
            group.kills()
        except OSError:
            group.remove()
            raise
        return group

    def discard(self, group: SlotMemory) -> None:
        """Remove a group whose processes are reaped, at once or as soon as the kernel lets us."""
        self._busy = [waiting for waiting in (*self._busy, group) if not waiting.remove()]

    async def settle(self) -> None:
        """Wait, a second at most, until every discarded group is removed."""
        for _ in range(_REMOVALS):
            self._busy = [waiting for waiting in self._busy if not waiting.remove()]
            if not self._busy:
                return
            await asyncio.sleep(_REMOVAL_S)

    def sweep(self) -> None:
        """Remove empty groups of trainers that were killed before they could."""
        for path in self.parent.glob(f"{_PREFIX}*-*"):
            owner = path.name.removeprefix(_PREFIX).split("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    path.rmdir()


def find_memory_groups() -> MemoryGroups | None:
    """The best place that really lets us set a limit, tried out; None where there is none."""
    for candidate in (*_v2_places(), *_v1_places()):
        try:
            candidate.create(64 << 20).remove()
        except OSError:
            continue
        candidate.sweep()
        return candidate
    return None


def _v2_places() -> list[MemoryGroups]:
    """Our own group and those above it, where children get a memory controller and processes may be moved."""
    places: list[MemoryGroups] = []
    for mount_point, own in _hierarchies("cgroup2", ""):
        directory = own
        while directory.is_relative_to(mount_point):
            control = directory / "cgroup.subtree_control"
            with contextlib.suppress(OSError):
                movable = os.access(directory / "cgroup.procs", os.W_OK)
                if movable and "memory" in control.read_text().split():
                    places.append(MemoryGroups(directory, 2))
            directory = directory.parent
    return places


def _v1_places() -> list[MemoryGroups]:
    return [MemoryGroups(own, 1) for _, own in _hierarchies("cgroup", "memory")]


def _hierarchies(kind: str, controller: str) -> list[tuple[Path, Path]]:
    """(mount point, our own directory) of the cgroup file systems that carry `controller`."""
    found: list[tuple[Path, Path]] = []
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        memberships = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next(
        (line.split(":", 2)[2] for line in memberships if controller in line.split(":", 2)[1].split(",")),
        None,
    )
    if own is None:
        return []
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, (fs_type, _, options) = left.split(" "), right.split(" ", 2)
        if fs_type == kind and (not controller or controller in options.split(",")):
            mount_point = Path(fields[4])
            inside = (
                Path("/", own).relative_to(fields[3]) if Path("/", own).is_relative_to(fields[3]) else Path()
            )
            found.append((mount_point, mount_point / inside))
    return found
