"""Files of the workspace, read and written from inside the slot by a child that may be killed.

Paths are resolved here, where an agent's links lead to nothing but the slot itself, and refused if they end
outside the workspace. Nothing else runs in the slot meanwhile.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.command import HostGoneError, end_everything
from atropos_agent.sandbox.inside.rootfs import WORKSPACE

_CHUNK = 1 << 20
_LISTING_BYTES = 8 << 20
_T = TypeVar("_T")
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


def run_in_child(request: frames.Frame, control: int) -> bytes:
    """The reply frame of a file operation, made in a fork with a deadline. Raises HostGoneError."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        try:
            _write_all(writer, _perform(request))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return _collect(reader, control, time.monotonic() + frames.number(request.meta, "timeout_s"))
    finally:
        os.close(reader)
        end_everything()


def _collect(reader: int, control: int, deadline: float) -> bytes:
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(control, select.POLLRDHUP)
    received = bytearray()
    while True:
        left = deadline - time.monotonic()
        events = dict(poller.poll(left * 1000)) if left > 0 else {}
        if control in events:
            raise HostGoneError
        if not events:
            return _failure(OSError(errno.ETIMEDOUT, "the file operation took too long"))
        chunk = os.read(reader, _CHUNK)
        if not chunk:
            return bytes(received) or _failure(OSError(errno.EIO, "the file operation was killed"))
        received += chunk


def _perform(request: frames.Frame) -> bytes:
    operation = _OPERATIONS[frames.text(request.meta, "op")]
    try:
        return operation(request)
    except (OSError, ValueError) as error:
        return _failure(error)
    except MemoryError:
        return _failure(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))


def _failure(error: Exception) -> bytes:
    code = getattr(error, "errno", None) or errno.EINVAL
    return frames.encode({"errno": code, "error": getattr(error, "strerror", None) or str(error)})


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _resolved(path: str) -> str:
    real = os.path.realpath(os.path.join(WORKSPACE, path))
    if real != WORKSPACE and not real.startswith(WORKSPACE + "/"):
        raise PermissionError(errno.EACCES, f"leads out of {WORKSPACE}")
    return real


def _open_regular(path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of a regular file. O_NONBLOCK keeps a FIFO from holding us."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, mode)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "not a regular file")


def _read_up_to(descriptor: int, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0:
        chunk = os.read(descriptor, min(limit, _CHUNK))
        if not chunk:
            break
        parts.append(chunk)
        limit -= len(chunk)
    return b"".join(parts)


def _read(request: frames.Frame) -> bytes:
    limit = frames.integer(request.meta, "max_bytes")
    descriptor = _open_regular(_resolved(frames.text(request.meta, "path")), os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise OSError(errno.EFBIG, f"{size} bytes, more than max_bytes={limit}")
    return frames.encode({}, _read_up_to(descriptor, limit))


def _write(request: frames.Frame) -> bytes:
    mode = frames.integer(request.meta, "mode")
    start = 0
    for entry in frames.sequence(request.meta, "files"):
        if not isinstance(entry, list):
            raise frames.FrameError(f"not a (path, size) pair: {entry!r}")
        path, size = str(entry[0]), int(entry[1])
        try:
            _write_one(_resolved(path), request.payload[start : start + size], mode)
        except OSError as error:
            raise OSError(error.errno, f"{path}: {error.strerror}") from error
        start += size
    return frames.encode({})


def _write_one(path: str, data: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = _open_regular(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, 0)
        _write_all(descriptor, data)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _snapshot(request: frames.Frame) -> bytes:
    """Entries are [path, kind, mode, size, bytes of data in the payload, link target], parents first."""
    per_file = frames.integer(request.meta, "max_file_bytes")
    left = frames.integer(request.meta, "max_total_bytes")
    os.chdir(WORKSPACE)
    entries: list[object] = []
    parts: list[bytes] = []
    listing = 0
    for path, status in _walk("."):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        data = _content(path, status, min(per_file, left)) if kind == "file" else b""
        target = os.readlink(path) if kind == "symlink" else ""
        left -= len(data)
        listing += len(path) + len(target)
        if listing > _LISTING_BYTES:
            raise OSError(errno.EFBIG, f"the names in {WORKSPACE} take more than {_LISTING_BYTES} bytes")
        parts.append(data)
        entries.append([path, kind, stat.S_IMODE(status.st_mode), status.st_size, len(data), target])
    return frames.encode({"entries": entries}, b"".join(parts))


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below `top` with its lstat; names longer than the kernel accepts end a branch."""
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            names = _despite_mode(directory, lambda: sorted(os.listdir(directory)))  # noqa: B023 called at once
        except OSError:
            continue
        for name in names:
            path = name if directory == "." else f"{directory}/{name}"
            try:
                status = os.lstat(path)
            except OSError:
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)


def _content(path: str, status: os.stat_result, limit: int) -> bytes:
    if limit <= 0 or status.st_size == 0:
        return b""
    descriptor = _despite_mode(path, lambda: _open_regular(path, os.O_RDONLY))
    try:
        return _read_up_to(descriptor, limit)
    finally:
        os.close(descriptor)


def _despite_mode(path: str, act: Callable[[], _T]) -> _T:
    """`act()` on a path of ours; if its mode forbids it, with the mode opened for that moment."""
    try:
        return act()
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        os.chmod(path, mode | stat.S_IRWXU)
        try:
            return act()
        finally:
            os.chmod(path, mode)


_OPERATIONS: dict[str, Callable[[frames.Frame], bytes]] = {
    "read_file": _read,
    "write_files": _write,
    "snapshot": _snapshot,
}
