"""Files of the workspace, read and written from inside the slot by a child that may be killed.

Paths are resolved here, where an agent's links lead to nothing but the slot itself, and refused if they end
outside the workspace. Nothing else runs in the slot meanwhile: jobs and sessions stand still.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import time
from collections.abc import Callable

from atropos_agent.sandbox.inside import frames, trees
from atropos_agent.sandbox.inside.control import HANG_UP, Control, HostGoneError
from atropos_agent.sandbox.inside.emptying import empty
from atropos_agent.sandbox.inside.grounds import Grounds
from atropos_agent.sandbox.inside.regular import open_regular, read_up_to, write_all, write_regular
from atropos_agent.sandbox.inside.rootfs import WORKSPACE

_CHUNK = 1 << 20


def run_in_child(request: frames.Frame, grounds: Grounds) -> None:
    """Do a file operation in a fork with a deadline and pass its reply on, a piece at a time.

    Raises HostGoneError, also if the reply is incomplete: the start of the next one would be unknown.
    """
    if grounds.kept:
        _signal_all(signal.SIGSTOP)  # nothing may change a path under us, or end us
    try:
        _run_in_child(request, grounds)
    finally:
        if grounds.kept:
            _signal_all(signal.SIGCONT)


def _signal_all(number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _run_in_child(request: frames.Frame, grounds: Grounds) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            for part in Workspace(grounds.limits.workspace).perform(request):
                write_all(writer, part)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    grounds.family.adopt(pid)
    try:
        deadline = time.monotonic() + frames.number(request.meta, "timeout_s")
        sent, ended = _relay(reader, grounds.host, deadline)
        complete = ended and grounds.family.wait(pid) == 0
    finally:
        os.close(reader)
        grounds.family.release(pid)
    if not sent:
        reason = OSError(errno.EIO, "the file operation was killed or took too long")
        grounds.host.send(b"".join(_failure(reason)))
    elif not complete:
        raise HostGoneError


def _relay(reader: int, host: Control, deadline: float) -> tuple[int, bool]:
    """Pass on what is written to `reader`: bytes passed, and whether its end came before the deadline."""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(host.requests, HANG_UP)
    sent = 0
    while True:
        left = deadline - time.monotonic()
        events = dict(poller.poll(left * 1000)) if left > 0 else {}
        if host.requests in events:
            raise HostGoneError
        if not events:
            return sent, False
        chunk = os.read(reader, _CHUNK)
        if not chunk:
            return sent, True
        host.send(chunk)
        sent += len(chunk)


def _failure(error: Exception) -> list[bytes]:
    code = getattr(error, "errno", None) or errno.EINVAL
    return [frames.encode({"errno": code, "error": getattr(error, "strerror", None) or str(error)})]


def _reply(meta: dict[str, object], parts: list[bytes]) -> list[bytes]:
    return [frames.head_of(meta, sum(map(len, parts))), *parts]


class Workspace:
    """The files below a directory that commands know as /workspace."""

    def __init__(self, root: str = WORKSPACE) -> None:
        self._root = os.path.realpath(root)

    def perform(self, request: frames.Frame) -> list[bytes]:
        """The pieces of the reply frame of one operation: its result, or `errno` and `error`."""
        operations: dict[str, Callable[[frames.Frame], list[bytes]]] = {
            "read_file": self._read,
            "write_files": self._write,
            "list": self._list,
            "snapshot": self._snapshot,
            "restore": self._restore,
        }
        try:
            operation = operations.get(frames.text(request.meta, "op"))
            if operation is None:
                raise frames.FrameError(f"no operation {request.meta['op']!r:.80}")
            return operation(request)
        except (OSError, ValueError, OverflowError) as error:
            return _failure(error)
        except MemoryError:
            return _failure(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))

    def place(self, path: str) -> str:
        """Where `path`, relative or below /workspace, really lies. Raises PermissionError if outside."""
        return self._within(os.path.realpath(self._outer(path)))

    def _outer(self, path: str) -> str:
        inner = os.path.normpath(os.path.join(WORKSPACE, path))
        if inner == WORKSPACE or inner.startswith(WORKSPACE + "/"):
            return self._root + inner[len(WORKSPACE) :]
        raise PermissionError(errno.EACCES, f"leads out of {WORKSPACE}")

    def _within(self, real: str) -> str:
        if real == self._root or real.startswith(self._root + "/"):
            return real
        raise PermissionError(errno.EACCES, f"leads out of {WORKSPACE}")

    def _entry(self, path: str) -> str:
        """Where the name `path` itself is, not its target. Raises PermissionError if outside."""
        outer = self._outer(path)
        if outer == self._root:
            return outer
        return f"{self._within(os.path.realpath(os.path.dirname(outer)))}/{os.path.basename(outer)}"

    def _read(self, request: frames.Frame) -> list[bytes]:
        limit = frames.integer(request.meta, "max_bytes")
        descriptor = open_regular(self.place(frames.text(request.meta, "path")), os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise OSError(errno.EFBIG, f"{size} bytes, more than max_bytes={limit}")
            return _reply({}, [read_up_to(descriptor, limit)])
        finally:
            os.close(descriptor)

    def _write(self, request: frames.Frame) -> list[bytes]:
        mode = frames.integer(request.meta, "mode")
        start = 0
        for path, size in frames.sizes(request.meta, "files"):
            try:
                place = self.place(path)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                write_regular(place, request.payload[start : start + size], mode)
            except OSError as error:
                raise OSError(error.errno, f"{path}: {error.strerror}") from error
            start += size
        return _reply({}, [])

    def _list(self, request: frames.Frame) -> list[bytes]:
        rows = [*trees.look(self.place(frames.text(request.meta, "path")))]
        return _reply({"entries": rows}, [])

    def _snapshot(self, request: frames.Frame) -> list[bytes]:
        """Rows of `trees.Row`, parents first, and their contents in the payload."""
        per_file = frames.integer(request.meta, "max_file_bytes")
        total = frames.integer(request.meta, "max_total_bytes")
        found = list(trees.walk(self._root, per_file=per_file, total=total))
        return _reply({"entries": [row for row, _ in found]}, [data for _, data in found])

    def _restore(self, request: frames.Frame) -> list[bytes]:
        """Make a tree of rows as in a snapshot, after emptying the workspace where `clear` is set."""
        rows: list[tuple[trees.Row, bytes]] = []
        start = 0
        for entry in frames.sequence(request.meta, "entries"):
            row = trees.Row.read(entry)
            rows.append((row, request.payload[start : start + row.length]))
            start += row.length
        if request.meta.get("clear"):
            with contextlib.suppress(PermissionError):  # not ours: then its mode was not changed
                os.chmod(self._root, stat.S_IMODE(os.stat(self._root).st_mode) | stat.S_IRWXU)
            empty(self._root)
        trees.make(rows, self._entry)
        return _reply({}, [])
