"""Judging a finished rollout: the final answer and the workspace, read by our process from a snapshot.

Nothing here runs anything the agent wrote: archives are read in memory, within bounds.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from atropos_agent.sandbox.protocol import FileEntry
from atropos_environments.terminal_tasks.task import Task

MAX_UNPACKED_BYTES = 4 << 20
MAX_ANSWER_CHARS = 4096


@dataclass(frozen=True, slots=True)
class FileWith:
    """A regular file with these bytes; a final newline more or less does not matter.

    With `executable` its owner must be allowed to run it.
    """

    data: bytes
    executable: bool = False

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the file is there, whole, with the right content."""
        if entry is None or entry.kind != "file" or entry.size != len(entry.data):
            return False
        if self.executable and not entry.mode & 0o100:
            return False
        return entry.data.removesuffix(b"\n") == self.data.removesuffix(b"\n")


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left at the path."""

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the path does not exist."""
        return entry is None


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory."""

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the path is a directory (a link to one is not)."""
        return entry is not None and entry.kind == "dir"


@dataclass(frozen=True, slots=True)
class LinkTo:
    """A symbolic link with exactly this target."""

    target: str

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the path is a link that says so."""
        return entry is not None and entry.kind == "symlink" and entry.target.rstrip("/") == self.target


@dataclass(frozen=True, slots=True)
class ModeIs:
    """Permission bits, the content untouched (`data` None: a directory)."""

    mode: int
    data: bytes | None

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the nine permission bits are exactly these."""
        if entry is None or entry.mode & 0o777 != self.mode:
            return False
        return entry.kind == "dir" if self.data is None else entry.kind == "file" and entry.data == self.data


@dataclass(frozen=True, slots=True)
class TarOf:
    """A tar archive whose regular files are exactly `members` (name -> bytes), compressed or not."""

    members: Mapping[str, bytes]
    gzip: bool = False

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the archive can be read within bounds and holds just these files."""
        if entry is None or entry.kind != "file" or entry.size != len(entry.data):
            return False
        raw = _gunzip(entry.data) if self.gzip else entry.data
        return raw is not None and _tar_members(raw) == dict(self.members)


@dataclass(frozen=True, slots=True)
class GzipOf:
    """A gzip file that unpacks to these bytes."""

    data: bytes

    def holds(self, entry: FileEntry | None) -> bool:
        """True where it unpacks within bounds to the right content."""
        return entry is not None and entry.kind == "file" and _gunzip(entry.data) == self.data


def _gunzip(data: bytes) -> bytes | None:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        raw = unpacker.decompress(data, MAX_UNPACKED_BYTES)
    except zlib.error:
        return None
    return raw if unpacker.eof else None


def _tar_members(raw: bytes) -> dict[str, bytes] | None:
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                plain = member.isreg() and not member.issparse() and member.size <= MAX_UNPACKED_BYTES
                source = archive.extractfile(member) if plain else None
                if source is None:
                    return None
                members[member.name.removeprefix("./")] = source.read()
    except (tarfile.TarError, ValueError, OSError, EOFError):
        return None
    return members


def check(
    task: Task, final_response: str, before: Mapping[str, FileEntry], after: Mapping[str, FileEntry]
) -> dict[str, float]:
    """Judge one rollout. `before` and `after` are snapshots of the workspace.

    Parts, each in 0..1: "answer" (the final answer is the expected one), "files" (share of the wanted
    contents that are there), "gone" (share of the paths to remove that are gone), each only where the task
    has it; "kept" (1.0 where no other path that was there has changed or is gone). The score is their
    product, so that deleting what should have been moved earns nothing.
    """
    parts: dict[str, float] = {}
    if task.answer is not None:
        parts["answer"] = float(_answer_matches(task, final_response))
    gone = [path for path, wanted in task.wanted.items() if isinstance(wanted, Gone)]
    made = [path for path in task.wanted if path not in gone]
    for name, paths in (("files", made), ("gone", gone)):
        if paths:
            parts[name] = sum(task.wanted[path].holds(after.get(path)) for path in paths) / len(paths)
    untouched = (path for path in before if path not in task.wanted)
    parts["kept"] = float(all(_unchanged(before[path], after.get(path)) for path in untouched))
    return parts


def score_of(parts: Mapping[str, float]) -> float:
    """The score of a rollout from the parts of `check`: their product, in 0..1."""
    score = 1.0
    for value in parts.values():
        score *= value
    return score


def _unchanged(before: FileEntry, after: FileEntry | None) -> bool:
    if after is None or (before.kind, before.mode) != (after.kind, after.mode):
        return False
    return before.kind == "dir" or (before.size, before.data, before.target) == (
        after.size,
        after.data,
        after.target,
    )


def _answer_matches(task: Task, final_response: str) -> bool:
    lines = [_normal(line) for line in final_response[-MAX_ANSWER_CHARS:].splitlines() if line.strip()]
    expected = [_normal(line) for line in (task.answer or "").splitlines() if line.strip()]
    if task.answer_is_list:
        return sorted(lines) == sorted(expected)
    return lines[-len(expected) :] == expected


def _normal(line: str) -> str:
    return line.strip().strip("`").removeprefix("./").strip()
