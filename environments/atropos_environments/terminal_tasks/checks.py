"""Checks a finished rollout: the final answer and the workspace, read by our process from a snapshot.

Nothing that the agent wrote is executed here: archives are read in memory, within bounds.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeGuard

from atropos_agent.sandbox.protocol import WORKSPACE, FileEntry
from atropos_agent.trajectory import Json
from atropos_environments.terminal_tasks.task import BySize, Task, Wanted

MAX_UNPACKED_BYTES = 4 << 20
MAX_JSON_BYTES = 64 << 10
MAX_ANSWER_CHARS = 4096
_MARKS = ('"', "'", "`", "**")
_NUMBER_AND_STOP = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?\.")


@dataclass(frozen=True, slots=True)
class FileWith:
    """A regular file with these bytes, not a hard link; one final newline more or less does not matter.

    With `executable` its owner must be allowed to run it.
    """

    data: bytes
    executable: bool = False

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the file is there, whole, with the right content."""
        if not _whole_file(entry) or entry.links != 1:  # a hard link to another file is not a copy of it
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
    """A symbolic link with exactly this target; with `any_form`, "./" or "/workspace/" may precede it."""

    target: str
    any_form: bool = False

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the path is a link with this target."""
        if entry is None or entry.kind != "symlink":
            return False
        others = (f"./{self.target}", f"{WORKSPACE}/{self.target}") if self.any_form else ()
        return entry.target.rstrip("/") in (self.target, *others)


@dataclass(frozen=True, slots=True)
class ModeIs:
    """Permission bits, the content untouched (`data` None: a directory)."""

    mode: int
    data: bytes | None

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the nine permission bits are exactly these."""
        if entry is None or entry.mode & 0o777 != self.mode:
            return False
        if self.data is None:
            return entry.kind == "dir"
        return _whole_file(entry) and entry.links == 1 and entry.data == self.data


@dataclass(frozen=True, slots=True)
class JsonIs:
    """A regular file that holds this JSON value, in any layout; a repeated key is refused."""

    value: Json

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the file can be read within bounds and holds exactly this value."""
        if not _whole_file(entry) or entry.size > MAX_JSON_BYTES:
            return False
        try:
            found = json.loads(entry.data.decode(), object_pairs_hook=_object, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return False
        return _text(found) == _text(self.value)


@dataclass(frozen=True, slots=True)
class TarOf:
    """A tar archive whose regular files are exactly `members` (name -> bytes), compressed or not."""

    members: Mapping[str, bytes]
    gzip: bool = False

    def holds(self, entry: FileEntry | None) -> bool:
        """True where the archive can be read within bounds and holds exactly these files."""
        if not _whole_file(entry):
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


def _whole_file(entry: FileEntry | None) -> TypeGuard[FileEntry]:
    # A snapshot cuts the data of large files; `size` is always the real one.
    return entry is not None and entry.kind == "file" and entry.size == len(entry.data)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _no_number(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _text(value: Json) -> str:
    # Compared as text, because 1, 1.0 and True are equal in Python but not in JSON.
    return json.dumps(value, sort_keys=True)


def _gunzip(data: bytes) -> bytes | None:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        # Bounded: a small file can unpack to gigabytes. Without `eof` the data is cut off or too large.
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
                # The header of a sparse member can claim any size without holding the data.
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
    contents that exist), "gone" (share of the paths to remove that are gone), each only if the task has it;
    "kept" (1.0 if no other path has changed or is gone and, with `nothing_else`, none was added). The score
    is their product, so deleting a file that should have been moved gives 0.
    """
    parts: dict[str, float] = {}
    if task.answer is not None:
        parts["answer"] = float(_answer_matches(task, final_response))
    gone = [path for path, wanted in task.wanted.items() if isinstance(wanted, Gone)]
    made = [path for path in task.wanted if path not in gone]
    for name, paths in (("files", made), ("gone", gone)):
        if paths:
            parts[name] = sum(_holds(task.wanted[path], path, after) for path in paths) / len(paths)
    parts["kept"] = float(_kept(task, before, after))
    return parts


def _holds(wanted: Wanted | BySize, path: str, after: Mapping[str, FileEntry]) -> bool:
    if isinstance(wanted, BySize):
        other = after.get(wanted.path)
        chosen = wanted.choices.get(other.size) if other else None
        return chosen is not None and chosen.holds(after.get(path))
    return wanted.holds(after.get(path))


def _kept(task: Task, before: Mapping[str, FileEntry], after: Mapping[str, FileEntry]) -> bool:
    known = {*before, *task.wanted}
    if task.nothing_else:
        folders = {str(folder) for path in task.wanted for folder in PurePosixPath(path).parents}
        if not known | folders >= after.keys():
            return False
    return all(
        _unchanged(before[path], after.get(path))
        for path in before
        if path not in task.wanted and (path in after or path not in task.may_go)
    )


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
    expected = [line.strip() for line in (task.answer or "").splitlines() if line.strip()]
    said = [line.strip() for line in final_response[-MAX_ANSWER_CHARS:].splitlines() if line.strip()]
    # An expected answer may itself have marks or a prefix, so an exact match is not normalised.
    lines = [line if line in expected else _normal(line) for line in said]
    if task.answer_is_list:
        return sorted(lines) == sorted(expected)
    return lines[-len(expected) :] == expected


def _normal(line: str) -> str:
    """A line without one pair of marks around it, a path's "/workspace/" or "./", a number's full stop."""
    for mark in _MARKS:
        if len(line) > 2 * len(mark) and line.startswith(mark) and line.endswith(mark):
            line = line[len(mark) : -len(mark)].strip()
            break
    if _NUMBER_AND_STOP.fullmatch(line):
        return line[:-1]
    return line.removeprefix(f"{WORKSPACE}/").removeprefix("./")
