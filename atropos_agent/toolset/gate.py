"""stub"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from atropos_agent.trajectory import Json, ToolCall, ToolResult


@dataclass(frozen=True, slots=True)
class Allow:
    """a"""


@dataclass(frozen=True, slots=True)
class Deny:
    """a"""

    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """a"""

    arguments: Mapping[str, Json]


Decision: TypeAlias = Allow | Deny | Replace
Gate: TypeAlias = Callable[[ToolCall], Awaitable[Decision]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """a"""

    requested: ToolCall
    executed: ToolCall | None
    reason: str = ""

    @property
    def denial(self) -> ToolResult:
        """a"""
        return ToolResult(success=False, error=f"Call denied: {self.reason}")

    def to_dict(self) -> dict[str, Json]:
        """a"""
        return {}


async def decide(gate: Gate, calls: Sequence[ToolCall]) -> list[Verdict]:
    """a"""
    return [Verdict(call, call) for call in calls]
