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

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.command import end_everything
from atropos_agent.sandbox.inside.control import HANG_UP, Control, HostGoneError
from atropos_agent.sandbox.inside.rootfs import WORKSPACE

_CHUNK = 1 << 20
_LISTING_BYTES = 8 << 20
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


def run_in_child(request: frames.Frame, control: Control) -> None:
    """Do a file operation in a fork with a deadline and pass its reply on, a piece at a time.

    Raises HostGoneError, also where the reply breaks off: nobody could tell where the next one begins.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            for part in Workspace().perform(request):
                _write_all(writer, part)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        deadline = time.monotonic() + frames.number(request.meta, "timeout_s")
        sent, ended = _relay(reader, control, deadline)
        complete = ended and os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(reader)
        end_everything()
    if not sent:
        reason = OSError(errno.EIO, "the file operation was killed or took too long")
        control.send(b"".join(_failure(reason)))
    elif not complete:
        raise HostGoneError


def _relay(reader: int, control: Control, deadline: float) -> tuple[int, bool]:
    """Pass on what is written to `reader`: bytes passed, and whether its end came before the deadline."""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(control.requests, HANG_UP)
    sent = 0
    while True:
        left = deadline - time.monotonic()
        events = dict(poller.poll(left * 1000)) if left > 0 else {}
        if control.requests in events:
            raise HostGoneError
        if not events:
            return sent, False
        chunk = os.read(reader, _CHUNK)
        if not chunk:
            return sent, True
        control.send(chunk)
        sent += len(chunk)


def _failure(error: Exception) -> list[bytes]:
    code = getattr(error, "errno", None) or errno.EINVAL
    return [frames.encode({"errno": code, "error": getattr(error, "strerror", None) or str(error)})]


def _reply(meta: dict[str, object], parts: list[bytes]) -> list[bytes]:
    return [frames.head_of(meta, sum(map(len, parts))), *parts]


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


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


class Workspace:
    """The files below a directory that commands know as /workspace."""

    def __init__(self, root: str = WORKSPACE) -> None:
        self._root = os.path.realpath(root)

    def perform(self, request: frames.Frame) -> list[bytes]:
        """The pieces of the reply frame of one operation: its result, or `errno` and `error`."""
        operations: dict[str, Callable[[frames.Frame], list[bytes]]] = {
            "read_file": self._read,
            "write_files": self._write,
            "snapshot": self._snapshot,
        }
        try:
            return operations[frames.text(request.meta, "op")](request)
        except (OSError, ValueError) as error:
            return _failure(error)
        except MemoryError:
            return _failure(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))

    def place(self, path: str) -> str:
        """Where `path`, relative or below /workspace, really lies. Raises PermissionError if outside."""
        inner = os.path.normpath(os.path.join(WORKSPACE, path))
        if inner == WORKSPACE or inner.startswith(WORKSPACE + "/"):
            real = os.path.realpath(self._root + inner[len(WORKSPACE) :])
            if real == self._root or real.startswith(self._root + "/"):
                return real
        raise PermissionError(errno.EACCES, f"leads out of {WORKSPACE}")

    def _read(self, request: frames.Frame) -> list[bytes]:
        limit = frames.integer(request.meta, "max_bytes")
        descriptor = _open_regular(self.place(frames.text(request.meta, "path")), os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise OSError(errno.EFBIG, f"{size} bytes, more than max_bytes={limit}")
            return _reply({}, [_read_up_to(descriptor, limit)])
        finally:
            os.close(descriptor)

    def _write(self, request: frames.Frame) -> list[bytes]:
        mode = frames.integer(request.meta, "mode")
        start = 0
        for entry in frames.sequence(request.meta, "files"):
            if not isinstance(entry, list):
                raise frames.FrameError(f"not a (path, size) pair: {entry!r}")
            path, size = str(entry[0]), int(entry[1])
            try:
                _write_one(self.place(path), request.payload[start : start + size], mode)
            except OSError as error:
                raise OSError(error.errno, f"{path}: {error.strerror}") from error
            start += size
        return _reply({}, [])

    def _snapshot(self, request: frames.Frame) -> list[bytes]:
        """Entries are [path, kind, mode, size, bytes of data in the payload, link target, links], parents
        first."""
        per_file = frames.integer(request.meta, "max_file_bytes")
        left = frames.integer(request.meta, "max_total_bytes")
        entries: list[object] = []
        parts: list[bytes] = []
        listing = 0
        for path, status in self._walk():
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
            data = _content(path, status, min(per_file, left)) if kind == "file" else b""
            target = os.readlink(path) if kind == "symlink" else ""
            name = path[len(self._root) + 1 :]
            left -= len(data)
            listing += len(name) + len(target)
            if listing > _LISTING_BYTES:
                raise OSError(errno.EFBIG, f"the names in {WORKSPACE} take more than {_LISTING_BYTES} bytes")
            parts.append(data)
            mode = stat.S_IMODE(status.st_mode)
            entries.append([name, kind, mode, status.st_size, len(data), target, status.st_nlink])
        return _reply({"entries": entries}, parts)

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every path with its lstat. Directories whose mode forbids looking are opened until the walk ends;
        names longer than the kernel accepts end a branch."""
        waiting = [self._root]
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


def _write_one(path: str, data: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = _open_regular(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, 0)
        _write_all(descriptor, data)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _content(path: str, status: os.stat_result, limit: int) -> bytes:
    if limit <= 0 or status.st_size == 0:
        return b""
    readable = os.access(path, os.R_OK)
    if not readable:
        os.chmod(path, stat.S_IRUSR)
    try:
        descriptor = _open_regular(path, os.O_RDONLY)
    finally:
        if not readable:
            os.chmod(path, stat.S_IMODE(status.st_mode))
    try:
        return _read_up_to(descriptor, limit)
    finally:
        os.close(descriptor)
