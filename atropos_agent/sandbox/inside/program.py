"""One program of the slot: how it is started, what it has written, how it ended."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from atropos_agent.sandbox.inside import confine, frames, linux, report
from atropos_agent.sandbox.inside.capture import Capture
from atropos_agent.sandbox.inside.oom import Expendable
from atropos_agent.sandbox.inside.rootfs import WORKSPACE
from atropos_agent.sandbox.inside.streams import Feed, Streams
from atropos_agent.sandbox.inside.tree import Family
from atropos_agent.sandbox.inside.watch import Limits

ENVIRONMENT = {
    "HOME": WORKSPACE,
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
_OUT_OF_THE_WAY = 64
_DUP2 = (os.POSIX_SPAWN_DUP2,) * 4
_CANNOT_START = 126
# For each signal that is not in this list, the C library asks the kernel about its handler in every child.
_RESET = tuple(int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_PR_SET_CHILD_SUBREAPER = 36


class Start(NamedTuple):
    """What to run and where. `script` goes to a fresh shell, `stdin` to what it runs."""

    script: bytes
    directory: str
    environment: Mapping[str, str]
    stdin: bytes | None

    @classmethod
    def asked_for(cls, request: frames.Frame) -> Start:
        """As a request says it: stdin is what follows the script. Raises FrameError."""
        meta, payload = request
        overrides = meta.get("env")
        environment = {**ENVIRONMENT, **overrides} if isinstance(overrides, dict) else ENVIRONMENT
        directory = frames.text(meta, "cwd") if "cwd" in meta else WORKSPACE
        if "script" not in meta:
            return cls(payload, directory, environment, None)
        cut = frames.integer(meta, "script")
        return cls(payload[:cut], directory, environment, payload[cut:])


class Program:
    """A child with its output captured. Used once: construct, `spawn` or `fork`, `end`.

    It has `ended` once `end` was called, or nothing could be started; then `status`, `code` and `duration_s`
    say how, as in `report.Report`.
    """

    _feeds: tuple[Feed, ...] = ()
    _lent: tuple[int, ...] = ()

    def __init__(self, streams: Streams, family: Family, limits: Limits) -> None:
        self._streams = streams
        self._family = family
        self._limits = limits
        self.pid: int = 0
        self.pidfd: int = -1
        self.ended: bool = False
        self.status: report.Status = "exited"
        self.code: int = 0
        self.duration_s: float = 0.0
        self.started: float = time.monotonic()
        self.stdout: Capture = Capture(limits.output_kept)
        self.stderr: Capture = Capture(limits.output_kept)

    def too_loud(self) -> bool:
        """True where more was written than is allowed."""
        return self.stdout.total + self.stderr.total > self._limits.output_limit

    def spawn(self, start: Start) -> None:
        """Run a script in the foreground. Raises OSError, ValueError: nothing was started."""
        script, directory, environment, stdin = start
        try:
            theirs = self._open(stdin)
            arguments = self._shell(script, theirs)
            os.chdir(directory)
            with self._family.expendable:
                self.pid = os.posix_spawn(
                    "/bin/sh",
                    arguments,
                    environment,
                    file_actions=[*zip(_DUP2, theirs.values(), theirs, strict=False)],
                    setpgroup=0,
                    setsigdef=_RESET,
                )
        finally:
            self._close_lent()
        self._family.adopt(self.pid)
        self._started()

    def fork(
        self,
        start: Start,
        *,
        keep: bool,
        arguments: list[bytes] | None = None,
        descriptors: Mapping[int, int] | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Run a program, by default a script, as the root of a tree of its own, which `keep` lets outlive
        commands.

        `descriptors` are further ones for it (number there: ours); `prepare` runs in the child before it.
        Raises OSError, ValueError: nothing was started.
        """
        try:
            theirs = self._open(start.stdin) | dict(descriptors or {})
            arguments = arguments or self._shell(start.script, theirs)
            self.pid = _forked(arguments, start, theirs, prepare, self._family.expendable)
        finally:
            self._close_lent()
        self._family.adopt(self.pid, keep=keep)
        self._started()

    def next_output(self) -> None:
        """Capture what is written from now on separately, and restart the clock."""
        self.started = time.monotonic()
        former = self.stdout, self.stderr
        self.stdout, self.stderr = Capture(self._limits.output_kept), Capture(self._limits.output_kept)
        self._streams.continue_in(self.stdout, former[0])
        self._streams.continue_in(self.stderr, former[1])

    def drain(self) -> None:
        """Take what lies in the pipes."""
        self._streams.drain(self.stdout)
        self._streams.drain(self.stderr)

    def end(self, reason: report.Status = "exited") -> None:
        """End the program, with all that descends from it, for `reason`, and take the last of its output."""
        if not self.ended:
            self.ended = True
            self.status = "output_limit" if reason == "exited" and self.too_loud() else reason
            self.code = os.waitstatus_to_exitcode(self._family.release(self.pid))
            self.duration_s = time.monotonic() - self.started
            self._streams.forget(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1  # the number may soon be another's
            self._close_ours()

    def report(
        self, status: report.Status, code: int, *, cpu_s: float = math.nan, kills: int = 0
    ) -> report.Parts:
        """What is said of it, with all that is kept of its output, in the terms of `report.Report`."""
        duration_s = self.duration_s if self.ended else time.monotonic() - self.started
        return report.pack(
            status, code, self.stdout, self.stderr, duration_s=duration_s, cpu_s=cpu_s, memory_kills=kills
        )

    def refused(self, directory: str, error: Exception) -> None:
        """Say on stderr, in the way of a shell, why nothing was started."""
        self.ended, self.code = True, _CANNOT_START
        self._close_ours()
        reason = getattr(error, "strerror", None) or error
        self.stderr.add(f"sh: cannot start in {directory!r}: {reason}\n".encode("utf-8", "backslashreplace"))

    def _started(self) -> None:
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._family.release(self.pid)
            raise
        self._streams.watch(self.pidfd)

    def _open(self, stdin: bytes | None) -> dict[int, int]:
        """The program's ends of its streams, by number."""
        self._streams.open_capture(self.stdout)
        self._streams.open_capture(self.stderr)
        theirs = {1: self.stdout.writer, 2: self.stderr.writer}
        if stdin is not None:
            theirs[0] = self._feed(stdin)
        return theirs

    def _shell(self, script: bytes, theirs: dict[int, int]) -> list[bytes]:
        """The arguments of a shell that runs `script`: one that is too long for an argument is read."""
        if len(script) <= _LONGEST_ARGUMENT:
            return [b"/bin/sh", b"-c", script]
        theirs[_SCRIPT_FD] = self._feed(b"exec %d<&-; " % _SCRIPT_FD + script)
        return [b"/bin/sh", b"/dev/fd/%d" % _SCRIPT_FD]

    def _feed(self, data: bytes) -> int:
        feed, theirs = self._streams.open_feed(data)
        self._feeds += (feed,)
        self._lent += (theirs,)
        return theirs

    def _close_lent(self) -> None:
        """Close our copies of the ends that the program reads from: a feed ends when no reader is left."""
        for descriptor in self._lent:
            os.close(descriptor)

    def _close_ours(self) -> None:
        self._streams.end_capture(self.stdout)
        self._streams.end_capture(self.stderr)
        for feed in self._feeds:
            self._streams.end_feed(feed)


def _forked(
    arguments: list[bytes],
    start: Start,
    theirs: Mapping[int, int],
    prepare: Callable[[], None],
    expendable: Expendable,
) -> int:
    """The pid of a child that has become the program. Raises OSError: none could."""
    trouble, report = os.pipe2(os.O_CLOEXEC)
    try:
        with expendable:
            pid = os.fork()
            if pid == 0:
                _become(arguments, start, theirs, prepare, report)
    except BaseException:
        os.close(trouble)
        raise
    finally:
        os.close(report)
    with open(trouble, "rb", buffering=0) as failure:
        code = failure.read(16)
    if code:
        os.waitpid(pid, 0)
        raise OSError(int(code), os.strerror(int(code)))
    return pid


def _become(
    arguments: list[bytes],
    start: Start,
    theirs: Mapping[int, int],
    prepare: Callable[[], None],
    report: int,
) -> None:
    """In the child: never returns."""
    try:
        os.setpgid(0, 0)
        linux.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        aside = {
            number: fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for number, end in theirs.items()
        }
        for number, end in aside.items():
            os.dup2(end, number)
        for number in confine.IGNORED:
            signal.signal(number, signal.SIG_DFL)
        os.chdir(start.directory)
        prepare()
        os.execve(arguments[0], arguments, start.environment)  # noqa: S606 the arguments are ours
    except Exception as error:
        os.write(report, str(getattr(error, "errno", None) or errno.EINVAL).encode())
    finally:
        os._exit(127)
