"""One interactive program in a sandbox, in a terminal that a tmux server of its own keeps."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from atropos_agent.sandbox.protocol import ExecResult, ExecStatus, Job, Sandbox
from atropos_tools._code import surviving
from atropos_tools._output import to_text

COLUMNS, ROWS = 80, 24
KEYS: tuple[str, ...] = (
    *("Enter", "Escape", "Tab", "BTab", "Space", "BSpace", "Delete", "Insert"),
    *("Up", "Down", "Left", "Right", "Home", "End", "PageUp", "PageDown"),
    *(f"F{number}" for number in range(1, 13)),
)

_KEY = re.compile(rf"(?:[CMS]-)*(?:{'|'.join(KEYS)}|[!-~])")
_SOCKET = "/tmp/.screen"  # noqa: S108 the sandbox's own
_SESSION = "screen"
_STATE = re.compile(rb"(\d+),(\d+),(\d*)\n")
_FORMAT = "#{cursor_x},#{cursor_y},#{@exit_code}"
_LOOK = (("display-message", "-p", "-t", _SESSION, _FORMAT), ("capture-pane", "-p", "-t", _SESSION))
_OPTIONS = (
    ("set-option", "-g", "default-terminal", "screen"),  # which every terminfo database knows
    ("set-option", "-g", "status", "off"),
)
# tmux may lose the last output of a program that ends, and its exit code: the terminal outlives it.
_OUTLIVING = (
    'trap : INT QUIT; "$SHELL" -c "$1"; "$2" -S "$3" set-option -p -t "$TMUX_PANE" @exit_code $?; '
    "exec tail -f /dev/null"
)
_CALL_S = 10.0
_POLL_S = 0.02
_POLLS = 500


class ScreenError(Exception):
    """What the screen was asked for cannot be done; the text says why."""


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen. Row and column of the cursor count from 1; `exit_code` is None while the
    program runs, and 128 and more after a signal."""

    text: str = ""
    row: int = 1
    column: int = 1
    exit_code: int | None = None


def is_key(name: str) -> bool:
    """True for a name of `KEYS` or one printable character, with any of C- M- S- before it."""
    return _KEY.fullmatch(name) is not None


class Tmux:
    """The terminal of one sandbox, whose server is a job. Every method raises SandboxLost, and ScreenError
    where tmux fails."""

    def __init__(self, program: str, sandbox: Sandbox) -> None:
        self._program = program
        self._sandbox = sandbox

    async def serve(self) -> Job:
        """Start the server: what a command starts would die with the command."""
        server = f"exec {self._line('-f', '/dev/null', '-D')}"
        job = await self._sandbox.start(server, env={"SHELL": "/bin/bash"})  # where there is one, else sh
        for _ in range(_POLLS):
            if (await self._call([("show-options", "-s", "exit-empty")])).status is ExecStatus.OK:
                return job
            report = await job.poll()
            if not report.running:
                raise ScreenError(f"tmux did not start: {to_text(report.stderr).strip()}")
            await asyncio.sleep(_POLL_S)
        await job.kill()
        raise ScreenError(f"tmux did not start within {_POLLS * _POLL_S:g} s")

    async def open(self, command: str) -> None:
        """Put `command` on the screen, in place of what is there."""
        await self._call([("kill-session", "-t", _SESSION)])
        session = ("-d", "-s", _SESSION, "-x", str(COLUMNS), "-y", str(ROWS))
        program = ("/bin/sh", "-c", _OUTLIVING, "sh", command, self._program, _SOCKET)
        await self._run([*_OPTIONS, ("new-session", *session, "--", *program)])

    async def look(self) -> View | None:
        """The screen, None where nothing was put on it."""
        result = await self._call(_LOOK)
        if result.exit_code:
            return None
        state = _STATE.match(result.stdout)
        if result.status is not ExecStatus.OK or state is None:
            raise ScreenError(f"tmux gave no screen ({result.status.value})")
        column, row, exit_code = state.groups()
        text = to_text(result.stdout[state.end() :]).rstrip("\n")
        return View(text, int(row) + 1, int(column) + 1, int(exit_code) if exit_code else None)

    async def type(self, text: str, keys: Sequence[str]) -> None:
        """Type `text`, a line end as Enter, then press `keys`."""
        calls: list[Sequence[str]] = []
        if text:
            calls += [
                ("load-buffer", "-b", "typed", "-"),
                ("paste-buffer", "-d", "-b", "typed", "-t", _SESSION),
            ]
        if keys:
            calls += [("send-keys", "-t", _SESSION, "--", *keys)]
        await self._run(calls, stdin=text.encode("utf-8", "replace"))

    async def _run(self, calls: Sequence[Sequence[str]], *, stdin: bytes | None = None) -> None:
        result = await self._call(calls, stdin=stdin)
        if result.status is not ExecStatus.OK:
            raise ScreenError(f"tmux: {to_text(result.stderr).strip() or result.status.value}")

    async def _call(self, calls: Sequence[Sequence[str]], *, stdin: bytes | None = None) -> ExecResult:
        """What one client was answered that makes all `calls`, up to the first that fails."""
        words: list[str] = []
        for call in calls:
            words += [";"] * bool(words)
            words += [f"{word[:-1]}\\;" if word.endswith(";") else word for word in call]
        return surviving(await self._sandbox.exec(self._line(*words), timeout_s=_CALL_S, stdin=stdin))

    def _line(self, *words: str) -> str:
        return shlex.join((self._program, "-u", "-S", _SOCKET, *words))
