"""AgentEnv: an item becomes messages, a finished rollout a score, n rollouts a group. Knows no sink."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import ClassVar, Generic, Self, TypeVar

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig, DebugSettings, EnvConfig, SandboxConfig
from atropos_agent.environment.contract import (
    Item,
    Reference,
    Validation,
    failed,
    isolation_as_data,
    rollout_seed,
    sandbox_spec,
    task_errors,
    unusable,
)
from atropos_agent.errors import (
    AtroposAgentError,
    ConfigError,
    SandboxLost,
    TaskError,
    ToolError,
)
from atropos_agent.events import Listener
from atropos_agent.export import Rules, scored_group
from atropos_agent.plugins import load
from atropos_agent.policy import Policy
from atropos_agent.renderer import Renderer
from atropos_agent.sandbox import Sandbox, SandboxPool, SandboxSpec
from atropos_agent.telemetry import Entry, Kind, debug_logger, watching
from atropos_agent.toolset import ToolContext, ToolRegistry, bind
from atropos_agent.trajectory import (
    AgentResult,
    Blame,
    Failure,
    Json,
    Rollout,
    RolloutGroup,
    Score,
    ScoredDataGroup,
    StopReason,
    Trace,
)

logger: logging.Logger = logging.getLogger(__name__)
ItemT = TypeVar("ItemT", bound=Item)


class AgentEnv(ABC, Generic[ItemT]):
    """An environment for tool-using agents: the Atropos contract over one agent loop and real sandboxes.

    A subclass gives `get_next_item`, `build_task` and one of `score_trajectory` /
    `verify_and_score_trajectory`. Use it as an async context manager: entering starts the sandboxes and
    calls `setup`. `policy` and `renderer` stay the caller's.
    """

    name: ClassVar[str] = "environment"
    config_type: ClassVar[type[EnvConfig]] = EnvConfig

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer | None = None,
        *,
        config: EnvConfig | None = None,
        agent: AgentConfig | None = None,
        sandbox: SandboxConfig | None = None,
        debug: DebugSettings | None = None,
    ) -> None:
        self.config: EnvConfig = config or self.config_type()
        self.sandbox_config: SandboxConfig = sandbox or SandboxConfig()
        self.policy: Policy = policy
        self.renderer: Renderer | None = renderer
        self._debug = debug or DebugSettings.from_environ()
        self.tools: ToolRegistry = self.build_tools()
        self.agent_config: AgentConfig = self.build_agent_config(agent or AgentConfig())
        self.agent: AtroposAgent = AtroposAgent(policy, self.tools, self.agent_config, renderer)
        self._spec = sandbox_spec(self.sandbox_config)
        self._pool = SandboxPool(
            self.sandbox_config.backend,
            self._spec,
            self.sandbox_config.slots,
            min_idle=self.sandbox_config.min_idle,
            max_uses=self.sandbox_config.max_uses,
        )
        self._asked: Counter[str] = Counter()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._open.enter_context(watching(self._debug.stall_after_s))
        await self._open.enter_async_context(self._pool)
        await self.setup()
        return self

    async def __aexit__(self, *exc: object) -> None:
        with Entry(Kind.SHUTDOWN, f"environment {self.name}"):
            await self._open.aclose()

    @property
    def isolation(self) -> Mapping[str, Json]:
        """What the sandboxes of this environment really enforce."""
        return isolation_as_data(self._pool.isolation)

    def sandbox(self) -> AbstractAsyncContextManager[Sandbox]:
        """A fresh sandbox for the length of a block; waits where all slots are in use."""
        return self._pool.acquire()

    async def setup(self) -> None:
        """Prepare data; called once, before the first item."""
        return

    @abstractmethod
    async def get_next_item(self) -> ItemT | None:
        """The next item, None at the end. The same seed gives the same items in the same order."""

    async def get_item(self, item_id: str) -> ItemT:
        """The item of this id, for looking at a single one."""
        raise TaskError(f"{self.name} cannot look up items by id, so not {item_id!r} either")

    @abstractmethod
    def build_task(self, item: ItemT) -> str:
        """The user message that states the task."""

    def build_tools(self) -> ToolRegistry:
        """The tools of every rollout; by default those that `config.tools` names."""
        registry = ToolRegistry(max_observation_chars=self.config.max_observation_chars)
        options = self.config.tool_options
        if unused := options.keys() - set(self.config.tools):
            raise ConfigError(f"env.tool_options names {sorted(unused)}, env.tools only {self.config.tools}")
        for name in self.config.tools:
            try:
                registry.register(load("tools", name)(**options.get(name, {})))
            except (TypeError, ToolError) as error:
                raise ConfigError(f"env.tool_options.{name}: {error}") from error
        return registry

    def build_agent_config(self, agent: AgentConfig) -> AgentConfig:
        """The agent's settings; override to set what the environment wants by default."""
        return agent

    def sandbox_for(self, item: ItemT, spec: SandboxSpec) -> SandboxSpec:
        """What the sandbox of `item` must be, where `spec` is what the config asks for; override for tasks
        that bring an image, a template or limits of their own."""
        return spec

    async def setup_trajectory_workspace(self, item: ItemT, *, sandbox: Sandbox) -> Mapping[str, object]:
        """Fill the fresh workspace of one rollout; what is returned reaches the verifier."""
        return {}

    def score_trajectory(self, item: ItemT, final_response: str) -> float:
        """Score a final answer alone; for environments that need not look into the sandbox."""
        raise NotImplementedError(f"{type(self).__name__} must define a score")

    async def verify_and_score_trajectory(
        self,
        item: ItemT,
        final_response: str,
        *,
        sandbox: Sandbox,
        agent_result: AgentResult,
        workspace_meta: Mapping[str, object],
    ) -> Score:
        """Score a finished rollout while its sandbox is still open.

        What is raised here leaves the rollout unscored, as our failure: judge whatever the policy may have
        left in the workspace, also what cannot be read, by a score.
        """
        return Score(self.score_trajectory(item, final_response))

    async def reference(self, item: ItemT) -> Reference:
        """A solution known to be right, for `validate`."""
        raise TaskError(f"{self.name} ships no reference solutions")

    async def rollout(
        self,
        item: ItemT,
        *,
        index: int = 0,
        repetition: int | None = None,
        listener: Listener | None = None,
    ) -> Rollout:
        """One scored attempt at `item`. Infrastructure failures are tried again, then returned unscored.

        `index` is the place in the group; with `repetition` it names the rollout and picks its sampling
        seed. Without a repetition each call for the same item is a new one.
        """
        repetition = self._repetition(item) if repetition is None else repetition
        attempt = 1
        while True:
            rollout = await self._attempt(item, index, repetition, attempt, listener)
            failure = rollout.result.failure
            if rollout.score is not None or failure is None or not failure.retryable:
                return rollout
            logger.warning("rollout %s failed: %s", rollout.id, failure.text)
            if attempt > self.config.infrastructure_retries:
                return rollout
            attempt += 1

    async def collect_group(
        self,
        item: ItemT,
        n: int | None = None,
        *,
        repetition: int | None = None,
        known: Sequence[Rollout] = (),
        on_rollout: Callable[[Rollout], Awaitable[None]] | None = None,
    ) -> RolloutGroup:
        """`n` rollouts of `item` (default: the group size). Those in `known` are taken over, not repeated;
        each new one is handed to `on_rollout` as soon as it is finished."""
        done = {rollout.index: rollout for rollout in known}
        pass_number = self._repetition(item) if repetition is None else repetition

        async def one(index: int) -> Rollout:
            if index in done:
                return done[index]
            rollout = await self.rollout(item, index=index, repetition=pass_number)
            if on_rollout is not None:
                await on_rollout(rollout)
            return rollout

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index)) for index in range(n or self.config.group_size)]
        return RolloutGroup(item.id, pass_number, tuple(task.result() for task in tasks))

    def _repetition(self, item: ItemT) -> int:
        """How often `item` was asked for before, where the caller does not count himself."""
        self._asked[item.id] += 1
        return self._asked[item.id] - 1

    def is_complete(self, group: RolloutGroup) -> bool:
        """True where enough rollouts of the group are scored for it to be delivered."""
        return Rules.of(self.config).is_complete(group)

    def score_group(self, group: RolloutGroup) -> ScoredDataGroup:
        """The group in the Atropos shape. Raises RecordError, AmbiguousTrajectory."""
        return scored_group(
            group,
            on_branch=self.config.on_branch,
            truncated=self.config.truncated,
            allow_raw=self.config.allow_raw_logprobs,
        )

    async def collect_trajectory(self, item: ItemT) -> tuple[ScoredDataGroup | None, list[ItemT]]:
        """One rollout in the Atropos shape (a group of one), and an empty backlog."""
        return await self.collect_trajectories(item, n=1)

    async def collect_trajectories(
        self, item: ItemT, *, n: int | None = None
    ) -> tuple[ScoredDataGroup | None, list[ItemT]]:
        """A scored group of `item` (None if too few rollouts could be scored), and an empty backlog."""
        group = await self.collect_group(item, n)
        return (self.score_group(group) if self.is_complete(group) else None), []

    async def validate(self, items: Sequence[ItemT]) -> list[Validation]:
        """Prove each item in a real sandbox: its reference scores 1, doing nothing scores 0."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._validate(item)) for item in items]
        return [task.result() for task in tasks]

    async def _validate(self, item: ItemT) -> Validation:
        reference = await self.reference(item)
        return Validation(
            item.id, await self._replay(item, reference), await self._replay(item, Reference((), ""))
        )

    async def _replay(self, item: ItemT, reference: Reference) -> float:
        async with self._sandbox_of(item, "") as sandbox:
            meta = await self.setup_trajectory_workspace(item, sandbox=sandbox)
            execute = bind(self.tools, ToolContext(sandbox=sandbox, rollout_id=item.id))
            for call in reference.calls:
                await execute(call)
            result = AgentResult(True, reference.answer, StopReason.FINAL_ANSWER)
            score = await self.verify_and_score_trajectory(
                item, reference.answer, sandbox=sandbox, agent_result=result, workspace_meta=meta
            )
        return score.value

    def _sandbox_of(self, item: ItemT, owner: str) -> AbstractAsyncContextManager[Sandbox]:
        wanted = self.sandbox_for(item, self._spec)
        return self._pool.acquire(owner, spec=None if wanted == self._spec else wanted)

    async def _attempt(
        self, item: ItemT, index: int, repetition: int, attempt: int, listener: Listener | None
    ) -> Rollout:
        rollout_id = f"{item.id}#{repetition}.{index}"
        started = time.time()
        clock = time.perf_counter()
        isolation = self.isolation
        try:
            async with self._sandbox_of(item, rollout_id) as sandbox:
                isolation = isolation_as_data(sandbox.isolation)
                seed = rollout_seed(self.config.seed, rollout_id, attempt)
                run_id = rollout_id if attempt == 1 else f"{rollout_id}~{attempt}"
                result, score = await self._run_in(sandbox, item, run_id, seed, listener)
        except AtroposAgentError as error:
            result, score = failed(error), None
        return Rollout(
            id=rollout_id,
            item_id=item.id,
            index=index,
            traces=(_trace(result, score),),
            metadata={} if score is None else score.metadata,
            isolation=isolation,
            started_at=started,
            duration_s=time.perf_counter() - clock,
            attempts=attempt,
        )

    async def _run_in(
        self, sandbox: Sandbox, item: ItemT, run_id: str, seed: int, listener: Listener | None
    ) -> tuple[AgentResult, Score | None]:
        with task_errors(f"workspace of {item.id}"):
            meta = await self.setup_trajectory_workspace(item, sandbox=sandbox)
            task = self.build_task(item)
        if self._debug.print_task:
            debug_logger(__name__).info("task of %s: %s", run_id, task)
        context = ToolContext(sandbox=sandbox, rollout_id=run_id)
        result = await self.agent.run(
            task,
            execute_tool=bind(self.tools, context),
            rollout_id=run_id,
            seed=seed,
            listener=listener,
        )
        if result.failure is not None and result.failure.blame is Blame.INFRASTRUCTURE:
            return result, None
        if result.stop_reason is StopReason.SANDBOX_LOST:
            return result, Score(0.0)
        try:
            return result, await self._verify(item, sandbox, result, meta)
        except AtroposAgentError as error:
            cut_off = isinstance(error, SandboxLost) and result.stop_reason is StopReason.WALL_TIME
            explained = replace(result, failure=Failure.of(error, blame=Blame.POLICY if cut_off else None))
            return explained, Score(0.0) if cut_off else None

    async def _verify(
        self, item: ItemT, sandbox: Sandbox, result: AgentResult, meta: Mapping[str, object]
    ) -> Score:
        with task_errors(f"verifier of {item.id}"), Entry(Kind.SCORER, item.id, owner=self.name):
            score = await self.verify_and_score_trajectory(
                item, result.final_response, sandbox=sandbox, agent_result=result, workspace_meta=meta
            )
        if (reason := unusable(score)) is not None:
            raise TaskError(f"the verifier of {item.id} gave {reason}")
        return score


def _trace(result: AgentResult, score: Score | None) -> Trace:
    if score is None:
        return Trace(result)
    return Trace(result, score=score.value, parts=score.parts, step_rewards=score.step_rewards)
