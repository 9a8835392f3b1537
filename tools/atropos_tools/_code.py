"""What tools share that run a text in the rollout's sandbox, afresh or in a session."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from atropos_agent.errors import SandboxLost, ToolError
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus, Sandbox, Session, SessionKind
from atropos_agent.toolset import ToolContext, ToolSchema, failure
from atropos_agent.trajectory import Json, ToolResult
from atropos_tools._base import SandboxTool
from atropos_tools._output import streams

_LEAST_TIMEOUT_S = 0.01
_LONGEST_TIMEOUT_S = 600.0


class CodeTool(SandboxTool):
    """Runs its one argument with a fresh `/bin/sh`, or in the rollout's session of `kind`.

    A call may take `timeout_s` (at most 600), less where the rollout ends earlier. Output is shown within
    `max_output_bytes`, head and tail of each stream; the exact numbers are in `details`.
    """

    def __init__(
        self, schema: ToolSchema, kind: SessionKind | None, timeout_s: float, max_output_bytes: int
    ) -> None:
        """Raises ToolError for an impossible `timeout_s`."""
        if not 0 < timeout_s <= _LONGEST_TIMEOUT_S:
            raise ToolError(
                f"timeout_s is {timeout_s!r}; above 0 and up to {_LONGEST_TIMEOUT_S:g} are possible"
            )
        self._schema = schema
        (self._argument,) = schema.required
        self._kind = kind
        self._timeout_s = timeout_s
        self._max_output_bytes = max_output_bytes

    async def _execute_in(
        self, sandbox: Sandbox, arguments: Mapping[str, Json], context: ToolContext
    ) -> ToolResult:
        text = str(arguments[self._argument])
        if "\0" in text:
            return failure(f"the {self._argument} holds a NUL byte, which cannot be run")
        limit_s = time_left_s(self._timeout_s, context)
        if self._kind is None:
            return self._observation(surviving(await sandbox.exec(text, timeout_s=limit_s)), limit_s)
        result, alive = await _run_in_session(self._kind, sandbox, context.sessions, text, limit_s)
        return self._observation(result, limit_s, alive=alive)

    def _observation(self, result: ExecResult, limit_s: float, *, alive: bool | None = None) -> ToolResult:
        """`alive`: whether the session continues; None if there is none."""
        output = streams(result, self._max_output_bytes)
        details = _details(result)
        if alive is not None:
            details["session_alive"] = alive
        if alive is False:
            ended = f"[The session has ended; the next {self._argument} starts a new one]"
            output = f"{output}\n{ended}" if output else ended
        return ToolResult(
            success=result.status is ExecStatus.OK,
            output=output,
            error=self._error(result, limit_s, alive),
            details=details,
        )

    def _error(self, result: ExecResult, limit_s: float, alive: bool | None) -> str:
        match result.status:
            case ExecStatus.OK:
                return ""
            case ExecStatus.NONZERO:
                return self._failed(result, alive)
            case ExecStatus.TIMEOUT if result.duration_s < limit_s:
                return f"Out of CPU time: the {self._argument} was stopped after {result.duration_s:.3g}s"
            case ExecStatus.TIMEOUT:
                return f"{self._argument.capitalize()} timed out after {limit_s:.3g}s"
            case ExecStatus.OOM:
                return f"Out of memory: the {self._argument} was killed"
            case ExecStatus.OUTPUT_LIMIT:
                written = result.stdout_bytes + result.stderr_bytes
                return f"Too much output: the {self._argument} was killed after {written} bytes"
            case ExecStatus.DISK_FULL:
                return f"Disk full: no room is left in /workspace or /tmp. {self._failed(result, alive)}"
            case _:
                return f"Killed by signal {_signal_name(result.signal)}"

    def _failed(self, result: ExecResult, alive: bool | None) -> str:
        """What is said of an exit code other than 0."""
        return f"Exit code: {result.exit_code}"


def time_left_s(longest_s: float, context: ToolContext) -> float:
    """Seconds that something may take in this call: `longest_s`, or less where the rollout ends earlier."""
    if context.deadline is None:
        return longest_s
    left_s = context.deadline - asyncio.get_running_loop().time()
    return max(min(longest_s, left_s), _LEAST_TIMEOUT_S)


def surviving(result: ExecResult) -> ExecResult:
    """`result` of a sandbox that is still there. Raises SandboxLost."""
    if result.status is ExecStatus.SANDBOX_LOST:
        raise SandboxLost("the sandbox died while a command was running in it")
    return result


async def _run_in_session(
    kind: SessionKind, sandbox: Sandbox, sessions: dict[SessionKind, Session], text: str, limit_s: float
) -> tuple[ExecResult, bool]:
    """How `text` ended, and whether the session continues; `sessions` holds only those that do."""
    if kind not in sessions:
        sessions[kind] = await sandbox.session(kind)
    session = sessions[kind]
    result = surviving(await session.run(text, timeout_s=limit_s))
    if not session.alive:
        del sessions[kind]
        await session.close()
        return result, False
    return result, True


def _signal_name(number: int | None) -> str:
    try:
        return f"{number} ({signal.Signals(number or 0).name})"
    except ValueError:
        return str(number)


def _details(result: ExecResult) -> dict[str, Json]:
    return {
        "status": result.status.value,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "duration_s": result.duration_s,
        "cpu_s": result.cpu_s,
        "stdout_bytes": result.stdout_bytes,
        "stderr_bytes": result.stderr_bytes,
        "truncated": result.truncated,
    }
