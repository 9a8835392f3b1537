"""Whole trees of the workspace: looked at, written down, and made again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.regular import open_regular, read_up_to, write_regular

_LISTING_BYTES = 8 << 20
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


class Row(NamedTuple):
    """One path as it goes over the wire. `length` bytes of its content are in the payload, of `size`."""

    path: str
    kind: str
    mode: int
    size: int
    length: int
    target: str
    links: int

    @classmethod
    def read(cls, entry: object) -> Row:
        """As it came over the wire. Raises FrameError."""
        match entry:
            case [str(path), str(kind), int(mode), int(size), int(length), str(target), int(links)]:
                return cls(path, kind, mode, size, length, target, links)
            case _:
                raise frames.FrameError(f"not an entry: {entry!r:.80}")


def walk(root: str, *, per_file: int, total: int) -> Iterator[tuple[Row, bytes]]:
    """Every path below `root` with its content, parents first, no link followed. Raises OSError."""
    listing = 0
    for path, status in _walk(root):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        data = _content(path, status, min(per_file, total)) if kind == "file" else b""
        row = _row(path[len(root) + 1 :], path, kind, status, len(data))
        total -= len(data)
        listing += len(row.path) + len(row.target)
        if listing > _LISTING_BYTES:
            raise OSError(errno.EFBIG, f"the names in the workspace take more than {_LISTING_BYTES} bytes")
        yield row, data


def look(directory: str) -> Iterator[Row]:
    """What lies in one directory, in order of names. Raises OSError."""
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        status = os.lstat(path)
        yield _row(name, path, _KINDS.get(stat.S_IFMT(status.st_mode), "other"), status, 0)


def make(rows: list[tuple[Row, bytes]], place: Callable[[str], str]) -> None:
    """Make each path of a tree, parents first, where `place` puts it. What is there gives way, but for
    directories.

    Modes of directories come last, so that none keeps its own content out. Raises OSError.
    """
    directories: list[tuple[str, int]] = []
    for row, data in rows:
        try:
            path = place(row.path)
            _make(row, path, data)
        except OSError as error:
            raise OSError(error.errno, f"{row.path}: {error.strerror}") from error
        if row.kind == "dir":
            directories.append((path, row.mode))
    for path, mode in reversed(directories):
        os.chmod(path, mode)


def _make(row: Row, path: str, data: bytes) -> None:
    if row.kind == "dir":
        os.makedirs(path, exist_ok=True)
        os.chmod(path, stat.S_IRWXU)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if row.kind == "symlink":
        os.symlink(row.target, path)
    elif row.kind == "file" and len(data) == row.size:
        write_regular(path, data, row.mode)
    else:
        known = f"only {len(data)} of {row.size} bytes are known" if row.kind == "file" else "no file"
        raise OSError(errno.EINVAL, f"cannot be made again: {known}")


def _row(name: str, path: str, kind: str, status: os.stat_result, length: int) -> Row:
    target = os.readlink(path) if kind == "symlink" else ""
    return Row(name, kind, stat.S_IMODE(status.st_mode), status.st_size, length, target, status.st_nlink)


def _walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every path with its lstat. Directories whose mode forbids looking are opened until the walk ends;
    names longer than the kernel accepts end a branch."""
    waiting = [root]
    opened: list[tuple[str, int]] = []
    try:
        while waiting:
            directory = waiting.pop()
            for name in _names(directory, opened):
                path = f"{directory}/{name}"
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
    finally:
        for directory, mode in reversed(opened):
            os.chmod(directory, mode)


def _names(directory: str, opened: list[tuple[str, int]]) -> list[str]:
    try:
        if not os.access(directory, os.R_OK | os.X_OK):
            mode = stat.S_IMODE(os.lstat(directory).st_mode)
            os.chmod(directory, mode | stat.S_IRWXU)
            opened.append((directory, mode))
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _content(path: str, status: os.stat_result, limit: int) -> bytes:
    if limit <= 0 or status.st_size == 0:
        return b""
    readable = os.access(path, os.R_OK)
    if not readable:
        os.chmod(path, stat.S_IRUSR)
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    finally:
        if not readable:
            os.chmod(path, stat.S_IMODE(status.st_mode))
    try:
        return read_up_to(descriptor, limit)
    finally:
        os.close(descriptor)
