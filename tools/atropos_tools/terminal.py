"""A shell command in the rollout's sandbox."""

from __future__ import annotations

from atropos_agent.sandbox.protocol import SessionKind
from atropos_agent.toolset import ToolSchema
from atropos_tools._code import CodeTool

_FRESH = "Run a shell command in /workspace."
_SESSION = (
    "Run a shell command. All commands run in one shell, which starts in /workspace: "
    "its directory, variables and background jobs stay."
)


class Terminal(CodeTool):
    """Runs `command` with a fresh `/bin/sh`, or with `session` in one shell that lives as long as the
    rollout; success is exit code 0. A shell that has ended is replaced at the next command."""

    def __init__(
        self, timeout_s: float = 30.0, max_output_bytes: int = 12_000, *, session: bool = False
    ) -> None:
        schema = ToolSchema.of(
            name="terminal",
            description=_SESSION if session else _FRESH,
            properties={"command": {"type": "string"}},
            required=("command",),
        )
        super().__init__(schema, SessionKind.SHELL if session else None, timeout_s, max_output_bytes)
