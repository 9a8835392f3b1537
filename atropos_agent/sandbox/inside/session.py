"""Interpreters that live on between commands: a shell and a python that take one text after another.

Texts come in on a descriptor of their own, numbered, and the exit status of each goes out on another with its
number, so that nothing a command prints or reads is taken for either. A text that forges its status, through
/proc, fools but itself: the next is waited for under its own number.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time

from atropos_agent.sandbox.inside import command, frames
from atropos_agent.sandbox.inside.grounds import Grounds
from atropos_agent.sandbox.inside.program import Program, Start
from atropos_agent.sandbox.inside.report import Status
from atropos_agent.sandbox.inside.streams import Feed

_TEXTS, _STATUSES = 8, 9
_AFTER_INTERRUPT_S = 0.5
_STATUS_BYTES = 4096
_MOST = 16
_SHELLS = (b"/bin/bash", b"/bin/sh")

# Reads how many lines the next text has, then the text. `command` keeps a syntax error from ending the shell.
# A ^C ends the text and not the shell, unless it struck in a function, out of which a trap cannot lead.
_SHELL_LOOP = f"""trap '[ -z "${{FUNCNAME-}}" ] || exit 130; continue 1000' INT
while :; do
if [ -n "$__running" ]; then __running=; echo "$__number 130" >&{_STATUSES}; fi
IFS=' ' read -r __number __lines <&{_TEXTS} || exit
__text=
while [ "$__lines" -gt 0 ]; do
IFS= read -r __line <&{_TEXTS}
__text="$__text$__line
"
__lines=$((__lines-1))
done
__running=1
command eval "$__text" {_TEXTS}<&- {_STATUSES}>&-
__status=$? __running=
echo "$__number $__status" >&{_STATUSES}
done"""

# The value of a last expression is shown, as at a prompt. A ^C ends the text and not the interpreter.
_PYTHON_LOOP = f"""
def serve():
    import ast, linecache, os, sys, traceback
    for number in ({_TEXTS}, {_STATUSES}):
        os.set_inheritable(number, False)
    texts, names = os.fdopen({_TEXTS}, "rb"), sys.modules["__main__"].__dict__
    names.pop("serve")
    count = 0
    while True:
        line = texts.readline()
        if not line:
            return
        number, size = map(int, line.split())
        source, status, count = texts.read(size).decode("utf-8", "surrogatepass"), 0, count + 1
        name = f"<text {{count}}>"
        linecache.cache[name] = len(source), None, source.splitlines(True), name
        try:
            tree = ast.parse(source, name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), names)
            if last is not None:
                sys.displayhook(eval(compile(ast.Expression(last.value), name, "eval"), names))
        except SystemExit:
            raise
        except BaseException as error:
            status = 130 if isinstance(error, KeyboardInterrupt) else 1
            frame = error.__traceback__
            while frame is not None and frame.tb_frame.f_code.co_filename != name:
                frame = frame.tb_next
            traceback.print_exception(type(error), error, frame)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        os.write({_STATUSES}, b"%d %d\\n" % (number, status))
serve()
"""


class Session:
    """One interpreter of the slot."""

    def __init__(self, grounds: Grounds, request: frames.Frame) -> None:
        """Start it. Raises FrameError; what cannot be started has ended, with the reason on its stderr."""
        self._grounds = grounds
        self._number = 0
        self._in_lines = frames.text(request.meta, "kind") == "shell"
        self.program: Program = grounds.program()
        start = Start.asked_for(request)
        self._feed: Feed
        self._feed, texts = grounds.streams.open_feed(b"", lasting=True)
        self._statuses, statuses = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(statuses, True)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        descriptors = {0: nothing, _TEXTS: texts, _STATUSES: statuses}
        try:
            self.program.fork(start, keep=True, arguments=self._arguments(), descriptors=descriptors)
        except (OSError, ValueError) as error:
            self.program.refused(start.directory, error)
        else:
            grounds.keep(self.program)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def run(self, request: frames.Frame) -> bytes:
        """Give it a text and follow until its status is there: the reply. Raises HostGoneError,
        FrameError."""
        self._grounds.settle()
        status: int | None = None
        reason: Status = "exited"
        kills = self._grounds.limits.memory_kills()
        if not self.program.ended:
            self._number += 1
            self.program.started = time.monotonic()
            self._grounds.streams.refill(self._feed, self._encoded(request.payload))
            status, reason = self._follow(frames.number(request.meta, "timeout_s"))
        return self._reply(status, reason, self._grounds.limits.memory_kills() - kills)

    def close(self) -> None:
        """End it, with everything it started."""
        self._grounds.forget(self.program)
        self.program.end()
        self._grounds.streams.end_feed(self._feed)
        os.close(self._statuses)

    def _arguments(self) -> list[bytes]:
        if self._in_lines:
            shell = next((path for path in _SHELLS if os.path.exists(path)), _SHELLS[-1])
            return [shell, b"-c", _SHELL_LOOP.encode()]
        return [b"/usr/bin/env", b"python3", b"-u", b"-c", _PYTHON_LOOP.encode()]

    def _encoded(self, text: bytes) -> bytes:
        if self._in_lines:
            return b"%d %d\n%b\n" % (self._number, text.count(b"\n") + 1, text)
        return b"%d %d\n%b" % (self._number, len(text), text)

    def _follow(self, timeout_s: float) -> tuple[int | None, Status]:
        """Until there is a status, or none can come: the status, and which limit was hit or "exited"."""
        streams = self._grounds.streams
        streams.watch(self._statuses)
        try:
            status, reason = self._wait(time.monotonic() + timeout_s)
            if reason != "exited" and not self.program.ended:
                self._grounds.family.interrupt(self.program.pid)
                status, _ = self._wait(time.monotonic() + _AFTER_INTERRUPT_S)
        finally:
            streams.forget(self._statuses)
        if self.program.ended:
            return None, reason
        if status is None:
            self._grounds.forget(self.program)
            self.program.end(reason)
        return status, reason

    def _wait(self, until: float) -> tuple[int | None, Status]:
        """Until the status of the current text is there, or a limit is hit, or the program ends."""
        while True:
            timeout_s = until - time.monotonic()
            reason = self._grounds.follow(self.program, self._statuses, timeout_s=timeout_s)
            status = self._take_status()
            gone = self.program.ended or self._grounds.family.status(self.program.pid) is not None
            if status is not None or reason != "exited" or gone:
                return status, reason

    def _take_status(self) -> int | None:
        """The status of the current text, where it has come in."""
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._statuses, _STATUS_BYTES)
        for line in said.splitlines():
            match line.split():
                case [number, status] if number == b"%d" % self._number and status.isdigit():
                    return int(status) & 0xFF
        return None

    def _reply(self, status: int | None, reason: Status, kills: int) -> bytes:
        if status is None:
            report = self.program.report(self.program.status, self.program.code, kills=kills)
            return frames.encode({"alive": False}, *report)
        self.program.drain()
        if reason == "exited" and status and command.full(self._grounds):
            reason = "disk_full"
        reply = frames.encode({"alive": True}, *self.program.report(reason, status, kills=kills))
        self.program.next_output()
        return reply


class Sessions:
    """The sessions of a slot, by number."""

    def __init__(self, grounds: Grounds) -> None:
        self._grounds = grounds
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)

    def open(self, request: frames.Frame) -> bytes:
        """Start one: the reply names it, 0 where there are too many. Raises FrameError."""
        if len(self._sessions) >= _MOST:
            return frames.encode({"session": 0})
        number = next(self._numbers)
        self._sessions[number] = Session(self._grounds, request)
        return frames.encode({"session": number})

    def run(self, request: frames.Frame) -> bytes:
        """See `Session.run`."""
        return self._find(request).run(request)

    def close(self, request: frames.Frame) -> bytes:
        """End one."""
        session = self._find(request)
        del self._sessions[frames.integer(request.meta, "session")]
        session.close()
        return frames.encode({})

    def close_all(self) -> None:
        """End every one."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _find(self, request: frames.Frame) -> Session:
        number = frames.integer(request.meta, "session")
        if number not in self._sessions:
            raise frames.FrameError(f"no session {number}")
        return self._sessions[number]
