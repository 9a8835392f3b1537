"""The proof of an item: its reference solution, replayed in a real sandbox, scores 1, and doing nothing 0."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atropos_agent.environment.contract import ItemT, Reference, Validation
from atropos_agent.environment.sandboxes import for_tools
from atropos_agent.toolset import ToolContext
from atropos_agent.trajectory import AgentResult, StopReason, Trace

if TYPE_CHECKING:
    from atropos_agent.environment.agent_env import AgentEnv

_NOTHING = Reference((), "")


async def validate(env: AgentEnv[ItemT], items: Sequence[ItemT]) -> list[Validation]:
    """One proof for each item, in order. Exceptions of the environment's code come in an ExceptionGroup."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_validate(env, item)) for item in items]
    return [task.result() for task in tasks]


async def _validate(env: AgentEnv[ItemT], item: ItemT) -> Validation:
    reference = await env.reference(item)
    return Validation(item.id, await _replay(env, item, reference), await _replay(env, item, _NOTHING))


async def _replay(env: AgentEnv[ItemT], item: ItemT, reference: Reference) -> float:
    """The score of a rollout that makes the calls of `reference` and gives its answer."""
    async with env.sandbox_of(item) as sandbox:
        meta = await env.setup_trajectory_workspace(item, sandbox=sandbox)
        context = ToolContext(sandbox=for_tools(sandbox), rollout_id=item.id, add_trace=_not_recorded)
        for call in reference.calls:
            await env.tools.execute(call, context)
        result = AgentResult(True, reference.answer, StopReason.FINAL_ANSWER)
        score = await env.verify_and_score_trajectory(
            item, reference.answer, sandbox=sandbox, agent_result=result, workspace_meta=meta
        )
    return score.value


def _not_recorded(_trace: Trace) -> None:
    """Discard the trace of another agent: a replay needs the score only."""
