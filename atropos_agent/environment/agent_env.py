"""AgentEnv: what the author of an environment overrides, and what users call. Independent of sinks.

`episode` runs the attempts at an item, `groups` makes groups, `validation` proves items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import cached_property
from typing import ClassVar, ForwardRef, Generic, Self, cast, get_args, get_origin

from atropos_agent.agent import AtroposAgent, Run
from atropos_agent.config import AgentConfig, DebugSettings, EnvConfig, SandboxConfig
from atropos_agent.environment import groups, validation
from atropos_agent.environment.contract import (
    ConfigT_co,
    ItemT,
    Reference,
    Validation,
    isolation_as_data,
)
from atropos_agent.environment.episode import Episode
from atropos_agent.environment.sandboxes import Sandboxes
from atropos_agent.errors import ConfigError, TaskError, ToolError
from atropos_agent.events import Listener
from atropos_agent.plugins import load
from atropos_agent.policy import Policy
from atropos_agent.renderer import Renderer
from atropos_agent.sandbox import Sandbox, SandboxSpec
from atropos_agent.telemetry import Entry, Kind, watching
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import AgentResult, Json, Rollout, RolloutGroup, Score, ScoredDataGroup


class AgentEnv(ABC, Generic[ItemT, ConfigT_co]):
    """An environment for tool-using agents: the Atropos contract over one agent loop and real sandboxes.

    A subclass gives `get_next_item`, `build_task` and one of `score_trajectory` /
    `verify_and_score_trajectory`. `AgentEnv[Item, MyConfig]` has `self.config` of that type and reads it from
    a run's config; `AgentEnv[Item]` has an EnvConfig. Use it as an async context manager: entering starts the
    sandboxes and calls `setup`. The caller closes `policy`.
    """

    name: ClassVar[str] = "environment"
    needs_sandbox: ClassVar[bool] = False
    """Set it if hooks use the sandbox and no tool does; with a tool that needs one there is always one.
    Without sandboxes, rollouts also run on machines without isolation."""
    config_type: ClassVar[type[EnvConfig]] = EnvConfig
    """What `config` is read as; the class argument sets it."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Take `config_type` from the class argument, e.g. MyConfig from `AgentEnv[Item, MyConfig]`."""
        super().__init_subclass__(**kwargs)
        if "config_type" not in cls.__dict__ and (found := _config_argument(cls)) is not None:
            cls.config_type = found

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer | None = None,
        *,
        config: ConfigT_co | None = None,
        agent: AgentConfig | None = None,
        sandbox: SandboxConfig | None = None,
        debug: DebugSettings | None = None,
    ) -> None:
        """Raises ConfigError for a config of another type, an unknown tool or its options."""
        self._config: ConfigT_co = cast("ConfigT_co", self.config_type()) if config is None else config
        if not isinstance(self._config, self.config_type):
            wanted, given = self.config_type.__name__, type(config).__name__
            raise ConfigError(f"{type(self).__name__} needs a config of type {wanted}, got {given}")
        self.sandbox_config: SandboxConfig = sandbox or SandboxConfig()
        self.policy: Policy = policy
        self.renderer: Renderer | None = renderer
        self.debug: DebugSettings = debug or DebugSettings.from_environ()
        self.tools: ToolRegistry = self.build_tools()
        self.agent_config: AgentConfig = self.build_agent_config(agent or AgentConfig())
        self.sandboxes: Sandboxes = Sandboxes(
            self.sandbox_config, needed=self.needs_sandbox or self.tools.needs_sandbox, environment=self.name
        )
        self._asked: Counter[str] = Counter()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            opened.enter_context(watching(self.debug.stall_after_s))
            await opened.enter_async_context(self.sandboxes)
            await self.setup()
            self._open = opened.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        with Entry(Kind.SHUTDOWN, f"environment {self.name}"):
            await self._open.aclose()

    @property
    def config(self) -> ConfigT_co:
        """The settings of this environment. `config.model_fields_set` names those that the run's config
        gives, also where it gives the default."""
        return self._config

    @cached_property
    def agent(self) -> AtroposAgent:
        """The agent that all rollouts share; made of policy, tools, settings and renderer at first use."""
        return AtroposAgent(self.policy, self.tools, self.agent_config, self.renderer)

    # What an author overrides

    async def setup(self) -> None:
        """Prepare data; called once, before the first item."""
        return

    @abstractmethod
    async def get_next_item(self) -> ItemT | None:
        """The next item, None at the end. The same seed gives the same items in the same order."""

    async def get_item(self, item_id: str) -> ItemT:
        """The item with this id, to inspect a single one."""
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
        """The agent's settings; override to set what the environment wants by default.

        `agent.model_fields_set` names what the run's config gives: leave that as it is, and return
        `agent.model_copy(update={...})` for the rest.
        """
        return agent

    def sandbox_for(self, item: ItemT, spec: SandboxSpec) -> SandboxSpec:
        """The spec of the sandbox for `item`, derived from the config's `spec`; override it for tasks that
        have an image, a template or limits of their own."""
        return spec

    async def setup_trajectory_workspace(self, item: ItemT, *, sandbox: Sandbox) -> Mapping[str, object]:
        """Fill the new workspace of one rollout; the result is passed to the verifier."""
        return {}

    async def play(self, item: ItemT, run: Run) -> None:
        """Hold the conversation of one rollout: by default one turn with the task.

        Override it for more turns, e.g. with a simulated user: each `await run.turn(message)` continues until
        the policy answers or a limit ends the run, and returns the answer and the stop reason. An exception
        leaves the rollout unscored.
        """
        await run.turn(self.build_task(item))

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

        An exception leaves the rollout unscored and counts as a failure of the task. Therefore give a score
        for anything that the policy may have left in the workspace, unreadable files included.
        """
        return Score(self.score_trajectory(item, final_response))

    async def reference(self, item: ItemT) -> Reference:
        """A solution known to be right, for `validate`."""
        raise TaskError(f"{self.name} ships no reference solutions")

    # What users call

    async def rollout(
        self,
        item: ItemT,
        *,
        index: int = 0,
        repetition: int | None = None,
        listeners: Sequence[Listener] = (),
    ) -> Rollout:
        """One scored attempt at `item`. Infrastructure failures are tried again, then returned unscored.

        `index` is the place in the group; with `repetition` it names the rollout and picks its sampling
        seed. Without a repetition each call for the same item is a new one.
        """
        number = self._repetition(item) if repetition is None else repetition
        return await Episode(self, item, index=index, repetition=number, listeners=listeners).run()

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
        number = self._repetition(item) if repetition is None else repetition
        size = n or self.config.group_size
        return await groups.collect_group(
            self, item, size, repetition=number, known=known, on_rollout=on_rollout
        )

    def is_complete(self, group: RolloutGroup) -> bool:
        """True where enough rollouts of the group are scored."""
        return groups.is_complete(group, self.config)

    def score_group(self, group: RolloutGroup) -> ScoredDataGroup:
        """The group in the Atropos shape. Raises TooFewRows, AmbiguousTrajectory, RecordError."""
        return groups.score_group(group, self.config)

    async def collect_trajectory(self, item: ItemT) -> tuple[ScoredDataGroup | None, list[ItemT]]:
        """One rollout in the Atropos shape (a group of one), and an empty backlog."""
        return await self.collect_trajectories(item, n=1)

    async def collect_trajectories(
        self, item: ItemT, *, n: int | None = None
    ) -> tuple[ScoredDataGroup | None, list[ItemT]]:
        """A scored group of `item` (None if too few rollouts are scored or give a row), and an empty backlog.

        `config.on_branch` "refuse" raises AmbiguousTrajectory where a rollout has several sequences."""
        return await groups.collect_trajectories(self, item, n)

    async def validate(self, items: Sequence[ItemT]) -> list[Validation]:
        """Prove each item in a real sandbox: its reference scores 1, doing nothing scores 0."""
        return await validation.validate(self, items)

    @property
    def isolation(self) -> Mapping[str, Json]:
        """What the sandboxes of this environment really enforce; backend "none" where it has none."""
        return isolation_as_data(self.sandboxes.isolation)

    def sandbox(self) -> AbstractAsyncContextManager[Sandbox]:
        """A fresh sandbox for the length of a block; waits where all slots are in use. A NoSandbox where the
        environment needs none."""
        return self.sandboxes.acquire()

    def sandbox_of(self, item: ItemT, owner: str = "") -> AbstractAsyncContextManager[Sandbox]:
        """`sandbox`, as `item` wants it; `owner` names who holds it in the in-flight table."""
        return self.sandboxes.acquire(owner, lambda spec: self.sandbox_for(item, spec))

    def _repetition(self, item: ItemT) -> int:
        """How often `item` was requested before; used if the caller gives no repetition."""
        self._asked[item.id] += 1
        return self._asked[item.id] - 1


def _config_argument(cls: type[object]) -> type[EnvConfig] | None:
    """The config type that the bases of `cls` name as class argument; None where none is named."""
    for base in cls.__dict__.get("__orig_bases__", ()):
        parameters = getattr(get_origin(base), "__parameters__", ())
        for parameter, argument in zip(parameters, get_args(base), strict=False):
            bound = getattr(parameter, "__bound__", None)
            if not (isinstance(bound, type) and issubclass(bound, EnvConfig)):
                continue
            if isinstance(argument, str | ForwardRef):
                raise TypeError(
                    f"{cls.__name__}: {argument!r} is a config type in quotes; define it before the class"
                )
            if isinstance(argument, type):
                return cast("type[EnvConfig]", argument)
    return None
