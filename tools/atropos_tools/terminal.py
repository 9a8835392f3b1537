"""A shell command in the rollout's sandbox."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from atropos_agent.errors import SandboxLost, ToolError
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus
from atropos_agent.toolset import ToolContext, ToolSchema, failure
from atropos_agent.trajectory import Json, ToolResult
from atropos_tools._output import head_and_tail

_LEAST_TIMEOUT_S = 0.01
_LONGEST_TIMEOUT_S = 600.0


class Terminal:
    """Runs `command` with a fresh `/bin/sh`; success is exit code 0.

    A command may take `timeout_s` (at most 600), less where the rollout ends earlier. Output is shown
    within `max_output_bytes`, head and tail of each stream; the exact numbers are in `details`.
    """

    def __init__(self, timeout_s: float = 30.0, max_output_bytes: int = 12_000) -> None:
        if not 0 < timeout_s <= _LONGEST_TIMEOUT_S:
            raise ToolError(
                f"timeout_s is {timeout_s!r}; above 0 and up to {_LONGEST_TIMEOUT_S:g} are possible"
            )
        self._timeout_s = timeout_s
        self._max_output_bytes = max_output_bytes
        self._schema = ToolSchema(
            name="terminal",
            description="Run a shell command in /workspace.",
            parameters={"command": {"type": "string"}},
            required=("command",),
        )

    @property
    def schema(self) -> ToolSchema:
        """Name and arguments."""
        return self._schema

    def is_available(self) -> tuple[bool, str]:
        """Always: whether there is a sandbox is a matter of the call."""
        return True, ""

    async def execute(self, arguments: Mapping[str, Json], context: ToolContext) -> ToolResult:
        """Run the command. Raises SandboxLost."""
        if context.sandbox is None:
            return failure("terminal needs a sandbox, and this rollout has none")
        command, limit_s = str(arguments["command"]), self._limit_s(context.deadline)
        if "\0" in command:
            return failure("the command holds a NUL byte, which no shell can run")
        result = await context.sandbox.exec(command, timeout_s=limit_s)
        if result.status is ExecStatus.SANDBOX_LOST:
            raise SandboxLost("the sandbox died while a command was running in it")
        return ToolResult(
            success=result.status is ExecStatus.OK,
            output=self._output(result),
            error=_error(result, limit_s),
            details=_details(result),
        )

    def _limit_s(self, deadline: float | None) -> float:
        if deadline is None:
            return self._timeout_s
        left_s = deadline - asyncio.get_running_loop().time()
        return max(min(self._timeout_s, left_s), _LEAST_TIMEOUT_S)

    def _output(self, result: ExecResult) -> str:
        """Stdout, then stderr under its heading. Each has half of the budget, and what the other leaves."""
        budget = self._max_output_bytes
        stdout_room = budget - min(result.stderr_bytes, budget // 2)
        stderr_room = budget - min(result.stdout_bytes, stdout_room)
        stdout = head_and_tail(result.stdout, result.stdout_bytes, stdout_room).rstrip("\n")
        stderr = head_and_tail(result.stderr, result.stderr_bytes, stderr_room).rstrip("\n")
        return "\n[stderr]\n".join((stdout, stderr)).removeprefix("\n") if stderr else stdout


def _error(result: ExecResult, limit_s: float) -> str:
    match result.status:
        case ExecStatus.OK:
            return ""
        case ExecStatus.NONZERO:
            return f"Exit code: {result.exit_code}"
        case ExecStatus.TIMEOUT:
            return f"Command timed out after {limit_s:.3g}s"
        case ExecStatus.OOM:
            return "Out of memory: the command was killed"
        case ExecStatus.OUTPUT_LIMIT:
            written = result.stdout_bytes + result.stderr_bytes
            return f"Too much output: the command was killed after {written} bytes"
        case _:
            return f"Killed by signal {_signal_name(result.signal)}"


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
        "stdout_bytes": result.stdout_bytes,
        "stderr_bytes": result.stderr_bytes,
        "truncated": result.truncated,
    }
