"""A hard memory limit per slot, where the kernel and our rights give one: cgroup v2, else v1, else none.

A place that cannot be used is reported with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_PREFIX = "atropos-"
_MOST_EVENTS = 4096
_REMOVALS = 50
_REMOVAL_S = 0.02


@dataclass(slots=True)
class SlotMemory:
    """The memory cgroup of one slot."""

    path: Path
    version: int
    _events: IO[bytes] | None = field(default=None, init=False, repr=False)

    def add(self, pid: int) -> None:
        """Move a process in; what it starts later is born inside."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How often the kernel killed a process of this group for want of memory.

        The file stays open until `remove`: each command is followed by a look into it.
        """
        if self._events is None:
            name = "memory.events" if self.version == 2 else "memory.oom_control"
            self._events = (self.path / name).open("rb", buffering=0)
        events = os.pread(self._events.fileno(), _MOST_EVENTS, 0).split()
        return int(events[events.index(b"oom_kill") + 1]) if b"oom_kill" in events else 0

    def kill(self) -> None:
        """End every process of the group and of those below it, where the kernel offers that at once."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> bool:
        """Remove the group; False where the kernel still counts a dead process in it."""
        if self._events is not None:
            self._events.close()
            self._events = None
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
        """End what is left in a group and remove it, at once or as soon as the kernel lets us."""
        group.kill()
        self._busy = [waiting for waiting in (*self._busy, group) if not waiting.remove()]

    async def settle(self) -> None:
        """Wait, a second at most, until every discarded group is removed."""
        for _ in range(_REMOVALS):
            self._busy = [waiting for waiting in self._busy if not waiting.remove()]
            if not self._busy:
                return
            await asyncio.sleep(_REMOVAL_S)

    def sweep(self) -> None:
        """Remove groups of trainers that were killed before they could."""
        for path in self.parent.glob(f"{_PREFIX}*-*"):
            owner = path.name.removeprefix(_PREFIX).split("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                self.discard(SlotMemory(path, self.version))


@dataclass(frozen=True, slots=True)
class MemoryProbe:
    """The place that was found (None: there is none), and why the places tried before cannot be used."""

    groups: MemoryGroups | None
    refusals: tuple[str, ...]


def probe_memory_groups() -> MemoryProbe:
    """The best place that really lets us set a limit, tried out."""
    refusals: list[str] = []
    for candidate in (*_v2_places(refusals), *_v1_places(refusals)):
        try:
            candidate.create(64 << 20).remove()
        except OSError as error:
            refusals.append(f"{candidate.mechanism} at {candidate.parent}: {_words(error)}")
            continue
        candidate.sweep()
        return MemoryProbe(candidate, tuple(refusals))
    return MemoryProbe(None, tuple(refusals))


def find_memory_groups() -> MemoryGroups | None:
    """The place of `probe_memory_groups`."""
    return probe_memory_groups().groups


def memory_limit() -> int | None:
    """The lowest limit, in bytes, that our own memory cgroup or one above it sets; None where none does."""
    limits: list[int] = []
    for hierarchies, name in (
        (_hierarchies("cgroup2", ""), "memory.max"),
        (_hierarchies("cgroup", "memory"), "memory.limit_in_bytes"),
    ):
        for directory in _upwards(hierarchies):
            with contextlib.suppress(OSError, ValueError):  # the root has none; "max" is none
                limits.append(int((directory / name).read_text()))
    return min(limits, default=None)


def _v2_places(refusals: list[str]) -> list[MemoryGroups]:
    """Our own group and those above it, where children get a memory controller and processes may be moved."""
    hierarchies = _hierarchies("cgroup2", "")
    if not hierarchies:
        refusals.append("cgroup-v2: not mounted")
    places: list[MemoryGroups] = []
    for directory in _upwards(hierarchies):
        if reason := _unfit(directory):
            refusals.append(f"cgroup-v2 at {directory}: {reason}")
        else:
            places.append(MemoryGroups(directory, 2))
    return places


def _unfit(directory: Path) -> str:
    """Why no group with a memory limit can be made below a directory of cgroup v2; "" where one may."""
    try:
        if "memory" not in (directory / "cgroup.controllers").read_text().split():
            return "it has no memory controller"
        if "memory" not in (directory / "cgroup.subtree_control").read_text().split():
            return "its memory controller is not given to the groups below it"
    except OSError as error:
        return _words(error)
    if not os.access(directory / "cgroup.procs", os.W_OK):
        return f"it is not delegated to uid {os.geteuid()}"
    return ""


def _v1_places(refusals: list[str]) -> list[MemoryGroups]:
    hierarchies = _hierarchies("cgroup", "memory")
    if not hierarchies:
        refusals.append("cgroup-v1: no memory controller is mounted")
    return [MemoryGroups(own, 1) for _, own in hierarchies]


def _words(error: OSError) -> str:
    at = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
    return f"{error.strerror or error}{at}"


def _upwards(hierarchies: list[tuple[Path, Path]]) -> list[Path]:
    """Our own directory and those above it, up to the mount point."""
    return [
        directory
        for mount_point, own in hierarchies
        for directory in (own, *own.parents)
        if directory.is_relative_to(mount_point)
    ]


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
