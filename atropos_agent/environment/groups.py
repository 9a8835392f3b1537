"""Rollouts of one item that are baselined together, and the Atropos views of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from atropos_agent.config import EnvConfig
from atropos_agent.environment.contract import ItemT
from atropos_agent.errors import TooFewRows
from atropos_agent.export import Rules
from atropos_agent.export.atropos import shaped
from atropos_agent.trajectory import Rollout, RolloutGroup, ScoredDataGroup

if TYPE_CHECKING:
    from atropos_agent.environment.agent_env import AgentEnv

logger: logging.Logger = logging.getLogger(__name__)


async def collect_group(
    env: AgentEnv[ItemT],
    item: ItemT,
    n: int,
    *,
    repetition: int,
    known: Sequence[Rollout] = (),
    on_rollout: Callable[[Rollout], Awaitable[None]] | None = None,
) -> RolloutGroup:
    """`n` rollouts side by side; see `AgentEnv.collect_group`."""
    done = {rollout.index: rollout for rollout in known}

    async def one(index: int) -> Rollout:
        if index in done:
            return done[index]
        rollout = await env.rollout(item, index=index, repetition=repetition)
        if on_rollout is not None:
            await on_rollout(rollout)
        return rollout

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index)) for index in range(n)]
    return RolloutGroup(item.id, repetition, tuple(task.result() for task in tasks))


async def collect_trajectories(
    env: AgentEnv[ItemT], item: ItemT, n: int | None
) -> tuple[ScoredDataGroup | None, list[ItemT]]:
    """A group of `n` rollouts in the Atropos shape; see `AgentEnv.collect_trajectories`."""
    group = await env.collect_group(item, n)
    if not env.is_complete(group):
        return None, []
    try:
        return env.score_group(group), []
    except TooFewRows as error:  # an ordinary outcome of a policy that ran into its limits
        logger.warning("no group: %s", error)
        return None, []


def is_complete(group: RolloutGroup, config: EnvConfig) -> bool:
    """True where enough rollouts of the group are scored."""
    return Rules.of(config).is_complete(group)


def score_group(group: RolloutGroup, config: EnvConfig) -> ScoredDataGroup:
    """The group in the Atropos shape. Raises RecordError, AmbiguousTrajectory."""
    return shaped(group, Rules.of(config))
