"""Every task family in the real sandbox, with the real terminal tool."""

import asyncio

import pytest

from atropos_agent.sandbox import SandboxPool
from atropos_agent.toolset import ToolContext
from atropos_environments.terminal_tasks.checks import check, score_of
from atropos_environments.terminal_tasks.generate import families, generate
from atropos_environments.terminal_tasks.task import DIFFICULTIES, Task
from atropos_tools.terminal import Terminal

pytestmark = pytest.mark.integration


async def solve(pool: SandboxPool, task: Task) -> tuple[str, float, float]:
    """Id, score of doing nothing, score of the reference solution."""
    async with pool.acquire() as sandbox:
        await sandbox.write_files(task.files)
        if task.setup_command:
            assert (await sandbox.exec(task.setup_command)).exit_code == 0, task.id
        before = await sandbox.snapshot()
        idle = score_of(check(task, "", before, before))
        for turn in task.solution:
            result = await Terminal().execute({"command": turn.command}, ToolContext(sandbox=sandbox))
            assert result.success, (task.id, turn.command, result)
        return task.id, idle, score_of(check(task, task.final_response, before, await sandbox.snapshot()))


async def test_reference_solutions_score_one_and_doing_nothing_zero() -> None:
    tasks = [generate(family, difficulty, 7) for family in families() for difficulty in DIFFICULTIES]
    async with SandboxPool(size=4) as pool:
        judged = await asyncio.gather(*(solve(pool, task) for task in tasks))
    assert [(task_id, idle, score) for task_id, idle, score in judged if (idle, score) != (0.0, 1.0)] == []
