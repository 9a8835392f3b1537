"""The agent: the face of the one loop. Knows no environment, no sink, no os.environ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TypeAlias

from atropos_agent.agent.loop import Loop, Setting, Stop
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.dialects.hermes.prompts import system_prompt
from atropos_agent.errors import ContextOverflow
from atropos_agent.events import Emitter, EventType, Listener
from atropos_agent.policy import AtroposServer, HttpPolicy, ManagedPolicy, Policy
from atropos_agent.renderer import Renderer
from atropos_agent.toolset import ExecuteTool, ToolContext, ToolRegistry, bind
from atropos_agent.trajectory import AgentResult, Message, SequenceData, ToolResult

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Server: TypeAlias = "str | Policy | AtroposServer"


class AtroposAgent:
    """An agent: a policy, its tools and its limits. Immutable; any number of runs may share it.

    `server` is a base URL, a Policy, or an atroposlib-style server object. `tokenizer` is a transformers
    tokenizer or a Renderer; without one nothing can be tracked that the server does not render itself.
    `execute_tool` runs one call (default: the registry, without a sandbox). An agent built from a URL owns
    its connections: use it as an async context manager.
    """

    def __init__(
        self,
        server: Server,
        tools: ToolRegistry | None = None,
        config: AgentConfig | None = None,
        tokenizer: PreTrainedTokenizerFast | Renderer | None = None,
        execute_tool: ExecuteTool | None = None,
    ) -> None:
        self.tools: ToolRegistry = ToolRegistry() if tools is None else tools
        self.config: AgentConfig = config or AgentConfig()
        self.policy: Policy = _as_policy(server)
        tokenizer = tokenizer if tokenizer is not None else getattr(server, "tokenizer", None)
        self.renderer: Renderer | None = _as_renderer(tokenizer)
        self.execute_tool: ExecuteTool = execute_tool or bind(self.tools, ToolContext())
        self._owns_policy = isinstance(server, str)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._owns_policy:
            await self.policy.aclose()

    async def run(
        self,
        task: str,
        initial_messages: Sequence[Message] | None = None,
        *,
        execute_tool: ExecuteTool | None = None,
        rollout_id: str = "",
        seed: int | None = None,
        listener: Listener | None = None,
    ) -> AgentResult:
        """One rollout: `[system] + initial_messages + [user: task]`, then steps until something stops it.

        What goes wrong at the server, the renderer or the sandbox ends this rollout as data
        (`stop_reason`, `error_type`, `error`) with everything recorded so far; programming errors and
        cancellation propagate. `seed` is the rollout's own: each step derives its seed from it.
        """
        messages = self._opening(task, initial_messages or ())
        emitter = Emitter(rollout_id, listener)
        setting = self._setting(execute_tool or self.execute_tool, rollout_id, seed)
        emitter.emit(EventType.RUN_STARTED, data={"task": task})
        try:
            result = await Loop(setting, messages, emitter).finish()
        except BaseException:
            emitter.emit(EventType.RUN_FINISHED)
            raise
        emitter.emit(EventType.RUN_FINISHED, result=result)
        return result

    def run_sync(self, task: str, initial_messages: Sequence[Message] | None = None) -> AgentResult:
        """`run` for code without an event loop; closes the connections of a URL-built agent."""

        async def once() -> AgentResult:
            async with self:
                return await self.run(task, initial_messages)

        return asyncio.run(once())

    async def run_single_turn(
        self, messages: Sequence[Message], execute_tools: bool = True
    ) -> tuple[str, tuple[ToolResult, ...], SequenceData | None]:
        """One completion for `messages`: its text, the results of its calls, its training sequence.

        Raises what `run` would have recorded (ProviderError, RenderError, SandboxLost), and ContextOverflow
        where a limit of the config leaves no room or time for it.
        """
        loop = Loop(self._setting(self.execute_tool), messages, Emitter("", None))
        results: tuple[ToolResult, ...] = ()
        try:
            await loop.start()
            turn = await loop.complete(1)
            if execute_tools:
                results = tuple([await loop.call(1, call) for call in turn.calls])
        except Stop as stop:
            raise ContextOverflow(f"the single turn was stopped by its own limit: {stop.reason}") from None
        sequences = loop.history.tracker.sequences()
        return turn.completion.text, results, sequences[0] if sequences else None

    def _setting(self, execute_tool: ExecuteTool, rollout_id: str = "", seed: int | None = None) -> Setting:
        return Setting(self.policy, self.renderer, self.config, execute_tool, rollout_id, seed)

    def _opening(self, task: str, initial_messages: Sequence[Message]) -> list[Message]:
        configured = self.config.system_prompt
        system = (
            system_prompt(self.tools.get_prompt_tool_definitions_json()) if configured is None else configured
        )
        opening: list[Message] = [{"role": "system", "content": system}] if system else []
        task = self.renderer.neutralise(task) if self.renderer is not None else task
        return [*opening, *initial_messages, {"role": "user", "content": task}]


def _as_renderer(tokenizer: PreTrainedTokenizerFast | Renderer | None) -> Renderer | None:
    if tokenizer is None:
        return None
    renderer = tokenizer if isinstance(tokenizer, Renderer) else Renderer(tokenizer, marks=HERMES_MARKS)
    return renderer.with_marks(HERMES_MARKS)


def _as_policy(server: Server) -> Policy:
    if isinstance(server, str):
        return HttpPolicy(server)
    return server if isinstance(server, Policy) else ManagedPolicy(server)
