"""One command: start it, follow it, end everything it started, report."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable

from atropos_agent.sandbox.inside import frames, watch
from atropos_agent.sandbox.inside.capture import Capture
from atropos_agent.sandbox.inside.control import HANG_UP, HostGoneError

ENVIRONMENT = {
    "HOME": "/workspace",
    "LANG": "C.UTF-8",
    "LOGNAME": "sandbox",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "SHELL": "/bin/sh",
    "TERM": "dumb",
    "TMPDIR": "/tmp",  # noqa: S108 the slot's own
    "USER": "sandbox",
}
_LONGEST_ARGUMENT = 120_000
_SCRIPT_FD = 9
_CHUNK = 1 << 16
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)


def end_everything() -> None:
    """Kill and reap every process of this pid namespace but ourselves."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


class Command:
    """A shell script under a wall limit and an output limit. Used once: construct, then `run()`."""

    def __init__(self, request: frames.Frame, control: int, exceeded: Callable[[], str]) -> None:
        """`exceeded` is asked every few ticks for the status that ends the command, "" for none."""
        meta, payload = request
        self._script = payload[: frames.integer(meta, "script")]
        self._stdin = payload[len(self._script) :] if meta.get("stdin") else None
        self._directory = frames.text(meta, "cwd")
        overrides = meta.get("env")
        self._environment = {**ENVIRONMENT, **(overrides if isinstance(overrides, dict) else {})}
        self._limit = frames.integer(meta, "output_limit")
        kept = frames.integer(meta, "output_kept")
        self._timeout_s = frames.number(meta, "timeout_s")
        self._control = control
        self._exceeded = exceeded
        self._captures: dict[int, Capture] = {}
        self._streams = (Capture(kept), Capture(kept))
        self._feeds: dict[int, memoryview] = {}
        self._poller = select.poll()
        self._wait_status: int | None = None

    def run(self) -> bytes:
        """The reply frame. Raises HostGoneError."""
        started = time.monotonic()
        try:
            pid = self._start()
        except (OSError, ValueError) as error:
            self._close_all()
            return self._cannot_start(error, started)
        pidfd = os.pidfd_open(pid)
        try:
            self._poller.register(pidfd, select.POLLIN)
            status = self._follow(pid, pidfd, started + self._timeout_s)
            end_everything()
            self._drain()
        finally:
            os.close(pidfd)
            self._close_all()
        return self._reply(status, started)

    def _start(self) -> int:
        self._poller.register(self._control, HANG_UP)
        actions: list[tuple[int, int, int]] = []
        ours_to_close: list[int] = []
        try:
            for number, capture in enumerate(self._streams, start=1):
                reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                ours_to_close.append(writer)
                os.set_blocking(writer, True)
                self._captures[reader] = capture
                self._poller.register(reader, select.POLLIN)
                actions.append((os.POSIX_SPAWN_DUP2, writer, number))
            if self._stdin is not None:
                actions.append((os.POSIX_SPAWN_DUP2, self._feed(self._stdin, ours_to_close), 0))
            arguments: list[bytes] = [b"sh", b"-c", self._script]
            if len(self._script) > _LONGEST_ARGUMENT:
                script = b"exec %d<&-; " % _SCRIPT_FD + self._script
                actions.append((os.POSIX_SPAWN_DUP2, self._feed(script, ours_to_close), _SCRIPT_FD))
                arguments = [b"sh", b"/dev/fd/%d" % _SCRIPT_FD]
            return self._spawn(arguments, actions)
        finally:
            for descriptor in ours_to_close:
                os.close(descriptor)

    def _spawn(self, arguments: list[bytes], actions: list[tuple[int, int, int]]) -> int:
        os.chdir(self._directory)
        try:
            pid = os.posix_spawn(
                "/bin/sh", arguments, self._environment, file_actions=actions, setpgroup=0, setsigdef=_RESET
            )
        finally:
            os.chdir("/")
        # Under memory pressure the kernel must choose a command, never the supervisor.
        with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"1000")
        return pid

    def _feed(self, data: bytes, ours_to_close: list[int]) -> int:
        """A pipe whose reading end is for the command; the poll loop writes `data` into it."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ours_to_close.append(reader)
        os.set_blocking(reader, True)
        self._feeds[writer] = memoryview(data)
        self._poller.register(writer, select.POLLOUT)
        return reader

    def _follow(self, pid: int, pidfd: int, deadline: float) -> str:
        """Serve the pipes until the shell has ended or a limit is hit: the status."""
        next_check = time.monotonic() + watch.PERIOD_S
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "timeout"
            if now >= next_check:
                reason = self._exceeded()
                if reason:
                    return reason
                next_check = now + watch.PERIOD_S
            wait_s = min(deadline, next_check) - now
            for descriptor, _ in self._poller.poll(max(1, math.ceil(wait_s * 1000))):
                if descriptor == self._control:
                    raise HostGoneError
                if descriptor == pidfd:
                    self._wait_status = os.waitpid(pid, 0)[1]
                    return "exited"
                if descriptor in self._feeds:
                    self._write_some(descriptor)
                else:
                    self._read_some(descriptor)
            if sum(capture.total for capture in self._streams) > self._limit:
                return "output_limit"

    def _read_some(self, descriptor: int) -> bool:
        """False at the end of the stream, or where nothing is there."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._poller.unregister(descriptor)
            del self._captures[descriptor]
            os.close(descriptor)
            return False
        self._captures[descriptor].add(chunk)
        return True

    def _write_some(self, descriptor: int) -> None:
        rest = self._feeds[descriptor]
        try:
            rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            rest = rest[:0]
        self._feeds[descriptor] = rest
        if not rest:
            self._poller.unregister(descriptor)
            del self._feeds[descriptor]
            os.close(descriptor)

    def _drain(self) -> None:
        """What the dead left in the pipes. All writers are gone, so this ends."""
        for descriptor in list(self._captures):
            while descriptor in self._captures and self._read_some(descriptor):
                pass

    def _close_all(self) -> None:
        for descriptor in (*self._captures, *self._feeds):
            os.close(descriptor)
        self._captures.clear()
        self._feeds.clear()

    def _cannot_start(self, error: Exception, started: float) -> bytes:
        message = f"sh: cannot start in {self._directory!r}: {getattr(error, 'strerror', None) or error}\n"
        self._streams[1].add(message.encode("utf-8", "backslashreplace"))
        return self._reply("exited", started, exit_code=126)

    def _reply(self, status: str, started: float, exit_code: int | None = None) -> bytes:
        number: int | None = None
        if self._wait_status is not None:
            code = os.waitstatus_to_exitcode(self._wait_status)
            exit_code, number = (code, None) if code >= 0 else (None, -code)
        elif exit_code is None:
            number = int(signal.SIGKILL)
        output, errors = (capture.value() for capture in self._streams)
        meta: dict[str, object] = {
            "status": status,
            "exit_code": exit_code,
            "signal": number,
            "stdout": len(output),
            "stdout_bytes": self._streams[0].total,
            "stderr_bytes": self._streams[1].total,
            "duration_s": time.monotonic() - started,
        }
        return frames.encode(meta, output + errors)
