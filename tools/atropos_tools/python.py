"""Python code in an interpreter that lives as long as the rollout."""

from __future__ import annotations

from atropos_agent.sandbox.protocol import ExecResult, SessionKind
from atropos_agent.toolset import ToolSchema
from atropos_tools._code import CodeTool


class Python(CodeTool):
    """Runs `code` in the sandbox's `python3`; success is that no exception was raised. The traceback of one
    is part of the output. An interpreter that has ended is replaced at the next code."""

    def __init__(self, timeout_s: float = 30.0, max_output_bytes: int = 12_000) -> None:
        schema = ToolSchema.of(
            name="python",
            description="Run Python code in an interpreter that keeps its names from call to call. "
            "What is printed is shown, and the value of a last expression.",
            properties={"code": {"type": "string"}},
            required=("code",),
        )
        super().__init__(schema, SessionKind.PYTHON, timeout_s, max_output_bytes)

    def _failed(self, result: ExecResult, alive: bool | None) -> str:
        return "The code raised an exception" if alive else super()._failed(result, alive)
