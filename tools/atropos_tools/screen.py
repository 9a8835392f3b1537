"""An interactive full-screen program in the rollout's sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from atropos_agent.sandbox.protocol import Job, Sandbox
from atropos_agent.toolset import ToolContext, ToolSchema, failure
from atropos_agent.trajectory import Json, ToolResult
from atropos_tools._base import SandboxTool
from atropos_tools._code import time_left_s
from atropos_tools._tmux import COLUMNS, KEYS, ROWS, ScreenError, Tmux, View, is_key

_WAIT_S = 2.0
_LONGEST_WAIT_S = 60.0
_POLL_S = 0.1
_QUIET_S = 0.3
_TAKES: Mapping[str, tuple[str, ...]] = {
    "start": ("command", "wait_s"),
    "send": ("text", "keys", "wait_s"),
    "view": ("wait_s",),
    "stop": (),
}
_JOB = "screen"
_NOTHING = "nothing is on the screen; begin with action start and a command"


class Screen(SandboxTool):
    """Runs one program at a time in a terminal of 80 columns and 24 rows, and shows what is on it.

    After `start` and `send` it waits until the screen has changed and come to rest, at most `wait_s`. `tmux`
    is where tmux lies in the sandbox, which shows the /usr of this machine.
    """

    def __init__(self, tmux: str = "/usr/bin/tmux") -> None:
        self._tmux = tmux
        self._schema = ToolSchema.of(
            name="screen",
            description="Use an interactive full-screen program (editor, pager, debugger) in a terminal of "
            f"{COLUMNS} columns and {ROWS} rows. Every action but stop shows the screen.",
            properties={
                "action": {
                    "type": "string",
                    "enum": list(_TAKES),
                    "description": "start a command, send it text and keys, view the screen, or stop it.",
                },
                "command": {"type": "string", "description": "For start: a shell command."},
                "text": {"type": "string", "description": "For send: typed as it is; a line end is Enter."},
                "keys": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "For send: pressed after the text, as Enter, Escape, Up, F1, C-c, M-x.",
                },
                "wait_s": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": _LONGEST_WAIT_S,
                    "description": f"How long to wait at most for the screen to change (default {_WAIT_S:g}, "
                    "for view 0).",
                },
            },
            required=("action",),
        )

    def is_available(self) -> tuple[bool, str]:
        """Whether this machine has tmux."""
        if Path(self._tmux).exists():
            return True, ""
        return False, f"there is no {self._tmux}; install tmux on the machine that runs the sandboxes"

    async def _execute_in(
        self, sandbox: Sandbox, arguments: Mapping[str, Json], context: ToolContext
    ) -> ToolResult:
        if problem := _problem(arguments):
            return failure(problem)
        try:
            return await self._act(arguments, Tmux(self._tmux, sandbox), context)
        except ScreenError as error:
            return failure(str(error))

    async def _act(self, arguments: Mapping[str, Json], tmux: Tmux, context: ToolContext) -> ToolResult:
        action, job = arguments["action"], context.jobs.get(_JOB)
        seen = None if job is None else await tmux.look()
        if action == "start":
            seen = await _start(str(arguments["command"]), tmux, seen, context.jobs)
        elif job is None or seen is None:
            return failure(_NOTHING)
        elif action == "stop":
            await job.kill()
            del context.jobs[_JOB]
            return ToolResult(success=True, output="Stopped")
        elif action == "send":
            await _send(arguments, tmux, seen)
        wait_s = cast("float", arguments.get("wait_s", 0.0 if action == "view" else _WAIT_S))
        return _shown(await _at_rest(tmux, seen, time_left_s(wait_s, context)))


async def _start(command: str, tmux: Tmux, seen: View | None, jobs: dict[str, Job]) -> View:
    """The screen before the program. Raises ScreenError where there is one already."""
    if seen is None:
        if _JOB in jobs:
            await jobs.pop(_JOB).kill()
        jobs[_JOB] = await tmux.serve()
    elif seen.exit_code is None:
        raise ScreenError("a program is on the screen; stop it before the next one is started")
    await tmux.open(command)
    return View()


async def _send(arguments: Mapping[str, Json], tmux: Tmux, seen: View) -> None:
    """Send text and keys. Raises ScreenError if the program has ended."""
    if seen.exit_code is not None:
        raise ScreenError(f"{_ended(seen.exit_code)}; start it again or another one")
    await tmux.type(str(arguments.get("text", "")), cast("list[str]", arguments.get("keys", [])))


def _problem(arguments: Mapping[str, Json]) -> str:
    """What in arguments that fit the schema does not fit the action, or ""."""
    action = str(arguments["action"])
    takes = _TAKES[action]
    if strange := [name for name in arguments if name not in ("action", *takes)]:
        return f"action {action} takes {', '.join(takes) or 'nothing else'}, not {', '.join(strange)}"
    command, text = (str(arguments.get(name, "")) for name in ("command", "text"))
    if action == "start" and not command.strip():
        return "action start needs a command"
    if "\0" in command:
        return "the command holds a NUL byte, which no shell can run"
    if action == "send" and not text and not arguments.get("keys"):
        return "action send needs text, keys or both"
    for key in cast("list[str]", arguments.get("keys", [])):
        if not is_key(key):
            return (
                f"unknown key {key!r}: one character or {', '.join(KEYS)} are possible, with C- (control), "
                "M- (alt) or S- (shift) before it, as in C-c; what is to be typed is text"
            )
    return ""


async def _at_rest(tmux: Tmux, before: View, wait_s: float) -> View | None:
    """The screen once it differs from `before` and has stayed the same for a moment, or at `wait_s`."""
    now = asyncio.get_running_loop().time
    seen, until = before, now() + wait_s
    rests_at = until
    while True:
        view = await tmux.look()
        if view is None or view.exit_code is not None:
            return view
        if view != seen:
            seen, rests_at = view, min(now() + _QUIET_S, until)
        if now() >= rests_at:
            return view
        await asyncio.sleep(_POLL_S)


def _shown(view: View | None) -> ToolResult:
    if view is None:
        return failure(_NOTHING)
    state = f"cursor in row {view.row}, column {view.column}"
    if view.exit_code is not None:
        state = _ended(view.exit_code)
    return ToolResult(
        success=True,
        output=f"[{state}]\n{view.text}".rstrip("\n"),
        details={"row": view.row, "column": view.column, "exit_code": view.exit_code},
    )


def _ended(exit_code: int) -> str:
    return f"the program has ended with exit code {exit_code}"
