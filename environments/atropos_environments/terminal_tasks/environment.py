"""TerminalTasks: generated shell tasks, scored by the final content of the sandbox and by the answer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Literal, cast

from pydantic import Field, field_validator

from atropos_agent import (
    AgentConfig,
    AgentEnv,
    AgentResult,
    EnvConfig,
    FileEntry,
    Reference,
    Sandbox,
    SandboxError,
    Score,
    ToolCall,
)
from atropos_agent.trajectory import Json
from atropos_environments.terminal_tasks.checks import check, score_of
from atropos_environments.terminal_tasks.generate import families, generate, task_from_id
from atropos_environments.terminal_tasks.prompts import SHORT_SYSTEM_PROMPT
from atropos_environments.terminal_tasks.task import DIFFICULTIES, Task


class TerminalTasksConfig(EnvConfig):
    """Which tasks are drawn, and with which system prompt."""

    tasks: tuple[str, ...] = Field(default=(), min_length=0)
    """Each `family` (difficulties 1 to 5) or `family/difficulty`; empty is every family."""
    prompt: Literal["default", "short"] = "default"
    """`short` is the one the embedded policy was trained with."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            family, _, difficulty = entry.partition("/")
            if family not in families():
                raise ValueError(f"no task family {family!r}; there are: {', '.join(families())}")
            if difficulty and difficulty not in map(str, DIFFICULTIES):
                raise ValueError(f"{entry!r}: a difficulty is one of {DIFFICULTIES}")
        return value

    def kinds(self) -> list[tuple[str, int]]:
        """The (family, difficulty) pairs to draw from, in the configured order."""
        pairs = [entry.partition("/") for entry in self.tasks or families()]
        return [
            (family, level)
            for family, _, difficulty in pairs
            for level in ([int(difficulty)] if difficulty else DIFFICULTIES)
        ]


class TerminalTasks(AgentEnv[Task, TerminalTasksConfig]):
    """An endless, seeded stream of shell tasks."""

    name: ClassVar[str] = "terminal_tasks"

    async def setup(self) -> None:
        """Begin the stream at its first item."""
        self._drawn = 0
        self._kinds = self.config.kinds()

    async def get_next_item(self) -> Task:
        """The next task: kind and seed depend on `config.seed` and the position alone."""
        # A generator for each position: an item does not depend on how the ones before it were made.
        rng = random.Random(f"{self.config.seed}/{self._drawn}")
        self._drawn += 1
        family, difficulty = rng.choice(self._kinds)
        return generate(family, difficulty, rng.randrange(2**31))

    async def get_item(self, item_id: str) -> Task:
        """The task that an id such as "count_lines/2/17" names. Raises ConfigError."""
        return task_from_id(item_id)

    def build_agent_config(self, agent: AgentConfig) -> AgentConfig:
        """The short prompt, if the config wants it and no other is set."""
        if self.config.prompt == "short" and agent.system_prompt is None:
            return agent.model_copy(update={"system_prompt": SHORT_SYSTEM_PROMPT})
        return agent

    def build_task(self, item: Task) -> str:
        """The task's prompt, unchanged."""
        return item.prompt

    async def setup_trajectory_workspace(self, item: Task, *, sandbox: Sandbox) -> Mapping[str, object]:
        """Write the files, run the set-up command, and return a snapshot to compare with."""
        await sandbox.write_files(item.files)
        if item.setup_command:
            done = await sandbox.exec(item.setup_command)
            if done.exit_code != 0:
                raise SandboxError(f"setup of {item.id} ended with {done.status}: {done.stderr.decode()!r}")
        return {"before": await sandbox.snapshot()}

    async def verify_and_score_trajectory(
        self,
        item: Task,
        final_response: str,
        *,
        sandbox: Sandbox,
        agent_result: AgentResult,
        workspace_meta: Mapping[str, object],
    ) -> Score:
        """Compare the workspace with what the task wants, and the answer with the expected one."""
        before = cast("Mapping[str, FileEntry]", workspace_meta["before"])
        # The text of a run that a limit ended is not an answer.
        answer = final_response if agent_result.success else ""
        described: dict[str, Json] = {"family": item.family, "difficulty": item.difficulty}
        try:
            after = await sandbox.snapshot()
        except SandboxError:
            raise
        except OSError as error:  # the policy left more names than a snapshot holds
            return Score(0.0, {"readable": 0.0}, {**described, "error": str(error)})
        parts = check(item, answer, before, after)
        return Score(score_of(parts), parts, described)

    async def reference(self, item: Task) -> Reference:
        """The commands and the answer that the generator made together with the task."""
        calls = [ToolCall("terminal", {"command": turn.command}) for turn in item.solution]
        return Reference(calls, item.final_response)
