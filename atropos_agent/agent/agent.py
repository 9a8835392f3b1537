"""The agent: the public interface of the loop. Independent of environments, sinks and os.environ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TypeAlias

from atropos_agent.agent.conversation import neutral
from atropos_agent.agent.run import Run
from atropos_agent.agent.setting import Setting
from atropos_agent.config import AgentConfig
from atropos_agent.dialects import Dialect
from atropos_agent.dialects.hermes import HERMES
from atropos_agent.events import Listener
from atropos_agent.policy import AtroposServer, HttpPolicy, ManagedPolicy, Policy
from atropos_agent.record.checks import require_messages
from atropos_agent.renderer import Renderer
from atropos_agent.toolset import ExecuteTool, Gate, ToolContext, ToolRegistry
from atropos_agent.trajectory import AgentResult, Message, SequenceData, ToolResult, UserMessage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Server: TypeAlias = "str | Policy | AtroposServer"


class AtroposAgent:
    """An agent: a policy, its tools and its limits. Immutable; any number of runs may share it.

    `server` is a base URL, a Policy, or an atroposlib-style server object. `tokenizer` is a transformers
    tokenizer or a Renderer; without one, tokens are tracked only where the server renders the prompts.
    `execute_tool` runs one call (default: the registry). `gate` decides on each call before it is executed.
    An agent built from a URL owns its connections: use it as an async context manager.
    """

    def __init__(
        self,
        server: Server,
        tools: ToolRegistry | None = None,
        config: AgentConfig | None = None,
        tokenizer: PreTrainedTokenizerFast | Renderer | None = None,
        execute_tool: ExecuteTool | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.tools: ToolRegistry = ToolRegistry() if tools is None else tools
        self.config: AgentConfig = config or AgentConfig()
        self.policy: Policy = _as_policy(server)
        self.dialect: Dialect = HERMES
        tokenizer = tokenizer if tokenizer is not None else getattr(server, "tokenizer", None)
        self.renderer: Renderer | None = _as_renderer(tokenizer, self.dialect)
        self.execute_tool: ExecuteTool = execute_tool or self.tools.execute
        self.gate: Gate | None = gate
        self._owns_policy = isinstance(server, str)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._owns_policy:
            await self.policy.aclose()

    def start(
        self,
        *,
        initial_messages: Sequence[Message] = (),
        resume: AgentResult | None = None,
        context: ToolContext | None = None,
        rollout_id: str = "",
        seed: int | None = None,
        listeners: Sequence[Listener] = (),
    ) -> Run:
        """A conversation: `async with agent.start() as run: await run.turn("...")`, any number of turns.

        It opens with `[system] + initial_messages`; in those of the user, control tokens are broken up.
        `resume` continues a recorded result instead: its opening, tokens, counts and used time. `context` is
        what every call may use. Each step derives its sampling seed from `seed`. Raises ConfigError for a
        message of no known form.
        """
        require_messages(initial_messages)
        opening = self._opening(initial_messages) if resume is None else resume.prompt_messages
        return Run(self._setting(context, rollout_id, seed), opening, listeners, resume)

    async def run(
        self,
        task: str | UserMessage,
        initial_messages: Sequence[Message] = (),
        *,
        context: ToolContext | None = None,
        rollout_id: str = "",
        seed: int | None = None,
        listeners: Sequence[Listener] = (),
    ) -> AgentResult:
        """One turn: `[system] + initial_messages + [user: task]`, then steps until something stops it.

        An error of the server, the renderer or the sandbox ends the run and is recorded (`stop_reason`,
        `failure`) with everything so far; programming errors and cancellation propagate.
        """
        run = self.start(
            initial_messages=initial_messages,
            context=context,
            rollout_id=rollout_id,
            seed=seed,
            listeners=listeners,
        )
        async with run:
            await run.turn(task)
        return run.result()

    def run_sync(self, task: str | UserMessage, initial_messages: Sequence[Message] = ()) -> AgentResult:
        """`run` for code without an event loop; closes the connections of a URL-built agent."""

        async def once() -> AgentResult:
            async with self:
                return await self.run(task, initial_messages)

        return asyncio.run(once())

    async def run_single_turn(
        self, messages: Sequence[Message], execute_tools: bool = True
    ) -> tuple[str, tuple[ToolResult, ...], SequenceData | None]:
        """One completion for `messages`: its text, the results of its calls, its training sequence.

        Raises the errors that `run` records (ProviderError, RenderError, SandboxLost), and ContextOverflow
        if a limit of the config leaves no room or no time.
        """
        return await Run(self._setting(None), messages).single_step(execute_tools=execute_tools)

    def _setting(self, context: ToolContext | None, rollout_id: str = "", seed: int | None = None) -> Setting:
        return Setting(
            policy=self.policy,
            renderer=self.renderer,
            dialect=self.dialect,
            config=self.config,
            tools=self.tools,
            execute_tool=self.execute_tool,
            context=context or ToolContext(rollout_id=rollout_id),
            gate=self.gate,
            rollout_id=rollout_id,
            seed=seed,
        )

    def _opening(self, initial_messages: Sequence[Message]) -> tuple[Message, ...]:
        configured = self.config.system_prompt
        system = self.dialect.opening(self.tools.get_schemas()).system if configured is None else configured
        opening: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
        return (*opening, *[self._harmless(message) for message in initial_messages])

    def _harmless(self, message: Message) -> Message:
        """`message` without live control tokens, if it is a user's. Those of other roles may be meant."""
        return neutral(message, self.renderer) if message["role"] == "user" else message


def _as_renderer(tokenizer: PreTrainedTokenizerFast | Renderer | None, dialect: Dialect) -> Renderer | None:
    if tokenizer is None:
        return None
    if isinstance(tokenizer, Renderer):
        return tokenizer.with_marks(dialect.marks)
    return Renderer(tokenizer, marks=dialect.marks)


def _as_policy(server: Server) -> Policy:
    if isinstance(server, str):
        return HttpPolicy(server)
    return server if isinstance(server, Policy) else ManagedPolicy(server)
