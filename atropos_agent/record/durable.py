"""Files of lines that survive a crash: appended whole or not at all, torn ends recognised and cut.

A line is safe once `append_line` has returned. A line that a crash interrupted has no newline at its end,
or (after a power loss) is not JSON.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.record.jsonl import decode_line
from atropos_agent.trajectory import Json

BLOCK_BYTES = 1 << 16

_NO_SPACE = "free some space, then resume the run: what it holds is intact"
_NO_RIGHT = "choose a directory that you can write to"
_NO_FOLDER = "choose another path: a part of it is not a directory"
_NEXT_ACTS = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: _NO_SPACE,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
}


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """Turn a failure of the file system into a RunDirectoryError that names `path`, cause and next act."""
    try:
        yield
    except RunDirectoryError:
        raise
    except OSError as error:
        act = _NEXT_ACTS.get(error.errno or 0, "check the disk, then resume the run: what it holds is intact")
        raise RunDirectoryError(f"{path} {what}: {error.strerror or error}; {act}") from error


def append_line(path: Path, line: bytes) -> None:
    """Append `line` (newline included) and return when it is on the disk. Raises OSError, with the file as
    it was before."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(fd).st_size
        end = _after_newline(fd, size)
        if end == 0:  # the file may be new: without its name on the disk its content is lost too
            sync_directory(path.parent)
        try:
            if end < size:
                os.ftruncate(fd, end)
            _write_all(fd, line)
            os.fsync(fd)
        except BaseException:  # also KeyboardInterrupt: half a line must not stay before the next one
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def cut_torn_end(path: Path) -> int:
    """Cut off an unfinished or unreadable last line. Returns the bytes cut, 0 if there is no such line or
    file."""
    if not path.exists():
        return 0
    fd = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        end = _after_newline(fd, size)
        if not _is_readable(last := _last_line(fd, end)):
            end -= len(last)
        if end < size:
            os.ftruncate(fd, end)
            os.fsync(fd)
        return size - end
    finally:
        os.close(fd)


def read_lines(file: BinaryIO) -> Iterator[dict[str, Json]]:
    """The object on each whole line of an open file. Raises RecordError naming the line, OSError."""
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):  # a writer has not finished it yet, or a crash tore it
            return
        try:
            value = decode_line(line)
        except RecordError as error:
            raise RecordError(f"line {number}: {error}") from error
        yield value


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` in one step when the block ends: a crash leaves the old content
    or the new, and at most `unfinished(path)`. Raises OSError."""
    beside = unfinished(path)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except Exception:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def unfinished(path: Path) -> Path:
    """The file beside `path` that `replacing` writes first."""
    return path.with_name(f".{path.name}.new")


def write_whole(path: Path, text: str) -> None:
    """Replace `path` with `text` in one step: a crash leaves the old content or the new. Raises OSError."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_directory(path: Path) -> None:
    """Return when the names in `path` are on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _after_newline(fd: int, end: int) -> int:
    """The offset after the last newline before `end`, 0 where there is none."""
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _last_line(fd: int, end: int) -> bytes:
    start = _after_newline(fd, end - 1)
    return os.pread(fd, end - start, start)


def _is_readable(line: bytes) -> bool:
    if not line:
        return True
    try:
        decode_line(line)
    except RecordError:
        return False
    return True
