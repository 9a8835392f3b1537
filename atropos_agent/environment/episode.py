"""An episode: attempts at an item until one can be recorded. One attempt is a sandbox, a workspace, the
conversation that `play` holds, and its score."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic

from atropos_agent.agent import Run
from atropos_agent.environment.blame import (
    failure_to_retry,
    is_unscorable,
    not_started,
    outcome_of,
    task_errors,
    unverified,
)
from atropos_agent.environment.contract import ItemT, isolation_as_data, rollout_seed, unusable
from atropos_agent.environment.sandboxes import for_tools
from atropos_agent.errors import AtroposAgentError, TaskError
from atropos_agent.events import Listener
from atropos_agent.sandbox import Sandbox
from atropos_agent.telemetry import Entry, Kind, debug_logger
from atropos_agent.toolset import ToolContext
from atropos_agent.trajectory import AgentResult, Rollout, Score, StopReason, Trace

if TYPE_CHECKING:
    from atropos_agent.environment.agent_env import AgentEnv

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one attempt. `score` is None where it must not be scored; `traces` are those of other
    agents that took part."""

    result: AgentResult
    score: Score | None = None
    traces: tuple[Trace, ...] = ()

    def all_traces(self) -> tuple[Trace, ...]:
        """One trace for each agent, ours first. A trainable one without a score gets ours, because the agents
        of a rollout worked on the same item."""
        score = self.score
        if score is None:
            return (Trace(self.result), *self.traces)
        main = Trace(self.result, score=score.value, parts=score.parts, step_rewards=score.step_rewards)
        shared = [
            replace(trace, score=score.value) if trace.trainable and trace.score is None else trace
            for trace in self.traces
        ]
        return (main, *shared)


class Episode(Generic[ItemT]):
    """The attempts at one item that become one rollout."""

    def __init__(
        self,
        env: AgentEnv[ItemT],
        item: ItemT,
        *,
        index: int,
        repetition: int,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.env: AgentEnv[ItemT] = env
        self.item: ItemT = item
        self.index: int = index
        self.id: str = f"{item.id}#{repetition}.{index}"
        self.listeners: tuple[Listener, ...] = tuple(listeners)

    async def run(self) -> Rollout:
        """The first attempt that needs no retry, or the last one that the config allows."""
        attempt = 1
        while True:
            rollout = await self._attempt(attempt)
            failure = failure_to_retry(rollout)
            if failure is None:
                return rollout
            logger.warning("rollout %s failed: %s", rollout.id, failure.text)
            if attempt > self.env.config.infrastructure_retries:
                return rollout
            attempt += 1

    async def _attempt(self, attempt: int) -> Rollout:
        started, clock = time.time(), time.perf_counter()
        isolation = self.env.isolation  # until the item's own sandbox, which may have other limits, is there
        try:
            with task_errors(f"sandbox_for of {self.item.id}"):
                lease = self.env.sandbox_of(self.item, self.id)
            async with lease as sandbox:
                isolation = isolation_as_data(sandbox.isolation)
                outcome = await self._in(sandbox, attempt)
        except AtroposAgentError as error:
            outcome = Outcome(not_started(error))
        return Rollout(
            id=self.id,
            item_id=self.item.id,
            index=self.index,
            traces=outcome.all_traces(),
            metadata={} if outcome.score is None else outcome.score.metadata,
            isolation=isolation,
            started_at=started,
            duration_s=time.perf_counter() - clock,
            attempts=attempt,
        )

    async def _in(self, sandbox: Sandbox, attempt: int) -> Outcome:
        with task_errors(f"workspace of {self.item.id}"):
            meta = await self.env.setup_trajectory_workspace(self.item, sandbox=sandbox)
        # A retry has an id of its own, so that its requests and events are not mixed with earlier ones.
        run_id = self.id if attempt == 1 else f"{self.id}~{attempt}"
        run = self.env.agent.start(
            context=ToolContext(sandbox=for_tools(sandbox), rollout_id=run_id),
            rollout_id=run_id,
            seed=rollout_seed(self.env.config.seed, self.id, attempt),
            listeners=self.listeners,
        )
        async with run:
            broken = await self._play(run)
        result = outcome_of(run.result(), run.passed_over, broken)
        result, score = await self._judge(sandbox, result, meta)
        return Outcome(result, score, tuple(run.traces))

    async def _play(self, run: Run) -> AtroposAgentError | None:
        """Hold the conversation. Returns the error with which the environment's own code ended it."""
        try:
            with task_errors(f"play of {self.item.id}"):
                if self.env.debug.print_task:
                    debug_logger(__name__).info("task of %s: %s", self.id, self.env.build_task(self.item))
                await self.env.play(self.item, run)
        except AtroposAgentError as error:
            if error.__cause__ is not None and _came_out_of_a_turn(error.__cause__):
                raise error.__cause__ from None
            return error
        if run.result().stop_reason is StopReason.UNFINISHED:
            return TaskError(f"play of {self.item.id} took no turn; await run.turn(message) at least once")
        return None

    async def _judge(
        self, sandbox: Sandbox, result: AgentResult, meta: Mapping[str, object]
    ) -> tuple[AgentResult, Score | None]:
        if is_unscorable(result):
            return result, None
        if result.stop_reason is StopReason.SANDBOX_LOST:
            return result, Score(0.0)
        try:
            return result, await self._verify(sandbox, result, meta)
        except AtroposAgentError as error:
            return unverified(result, error)

    async def _verify(self, sandbox: Sandbox, result: AgentResult, meta: Mapping[str, object]) -> Score:
        item = self.item
        with task_errors(f"verifier of {item.id}"), Entry(Kind.SCORER, item.id, owner=self.env.name):
            score = await self.env.verify_and_score_trajectory(
                item, result.final_response, sandbox=sandbox, agent_result=result, workspace_meta=meta
            )
        if (reason := unusable(score, result.num_steps)) is not None:
            raise TaskError(f"the verifier of {item.id} gave {reason}")
        return score


def _came_out_of_a_turn(error: BaseException) -> bool:
    """True for a bug of the engine: a turn records the errors of servers and tools and does not raise them.

    A bug must propagate. Blamed on the environment, it would be recorded in every rollout and not be noticed.
    """
    return any(frame.f_code is Run.turn.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
