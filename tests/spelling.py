"""A tiny environment for tests: write a word backwards into a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from atropos_agent.dialects.hermes import render_call
from atropos_agent.environment import AgentEnv, Reference
from atropos_agent.sandbox import Sandbox
from atropos_agent.trajectory import AgentResult, Score, ToolCall

WORDS = ("cat", "dog", "bird", "fish", "mouse", "horse", "sheep", "goat")


@dataclass(frozen=True)
class Word:
    id: str


class Spelling(AgentEnv[Word]):
    """Scores 1 where answer.txt holds the word backwards; some words break the environment on purpose."""

    name: ClassVar[str] = "spelling"

    async def setup(self) -> None:
        self._next = 0

    async def get_next_item(self) -> Word | None:
        self._next += 1
        return Word(f"{WORDS[(self._next - 1) % len(WORDS)]}{self._next}")

    def build_task(self, item: Word) -> str:
        if item.id.startswith("untaskable"):
            raise KeyError("no such task")
        return f"Write {item.id} backwards into answer.txt."

    async def verify_and_score_trajectory(
        self,
        item: Word,
        final_response: str,
        *,
        sandbox: Sandbox,
        agent_result: AgentResult,
        workspace_meta: Mapping[str, object],
    ) -> Score:
        if item.id.startswith("unscorable"):
            raise ZeroDivisionError("the scorer is broken")
        if item.id.startswith("infinite"):
            return Score(float("nan"))
        files = await sandbox.snapshot()
        found = files["answer.txt"].data if "answer.txt" in files else b""
        return Score(float(found == item.id[::-1].encode()), {"file": float(bool(found))})

    async def reference(self, item: Word) -> Reference:
        return Reference([ToolCall("terminal", {"command": solving(item.id)})], "done")


def solving(word: str) -> str:
    """The command that solves a word."""
    return f"printf {word[::-1]} > answer.txt"


def solve(messages, step: int) -> str:
    """A script for FakePolicy: one right command, then an end."""
    word = messages[1]["content"].split()[1]
    return render_call("terminal", {"command": solving(word)}) if step == 1 else "done"


def solve_some(messages, step: int) -> str:
    """Right for words of even length, wrong otherwise."""
    word = messages[1]["content"].split()[1]
    return solve(messages, step) if len(word) % 2 == 0 else "I give up"
