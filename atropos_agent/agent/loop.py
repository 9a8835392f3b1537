"""One rollout's private state and its loop: complete, parse, act, observe, stop."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace

from atropos_agent.agent.history import History
from atropos_agent.agent.rescoring import rescore, with_spans
from atropos_agent.agent.tracker import resolve_tokens
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import (
    HERMES_TAGS,
    ParsedCompletion,
    parse,
    repair_hint,
    result_to_xml,
    wrap_observation,
)
from atropos_agent.errors import (
    AtroposAgentError,
    ContextOverflow,
    ProviderError,
    RequestTimeout,
    SandboxLost,
)
from atropos_agent.events import Emitter, EventType
from atropos_agent.policy import Policy, RequestInfo
from atropos_agent.policy.protocol import Capabilities
from atropos_agent.renderer import Renderer
from atropos_agent.telemetry import Entry, Kind
from atropos_agent.toolset import ExecuteTool, ToolContext, failure
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Blame,
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    Json,
    Message,
    ParseErrorKind,
    SamplingParams,
    SequenceData,
    StepSpan,
    StopReason,
    ToolCall,
    ToolResult,
)


def step_seed(seed: int, step_number: int) -> int:
    """The sampling seed of one step, in [0, 2**31)."""
    digest = hashlib.blake2b(f"{seed}/{step_number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class Stop(Exception):
    """Ends the loop with a reason."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


TOOL_GRACE_S = 1.0
"""A tool that heeds its deadline returns by itself, its sandbox whole; others are cut this much later."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a rollout is given: who answers, who renders, who acts, and under which limits."""

    policy: Policy
    renderer: Renderer | None
    config: AgentConfig
    execute_tool: ExecuteTool
    context: ToolContext
    rollout_id: str = ""
    seed: int | None = None


@dataclass(slots=True)
class _Turn:
    """A step while it is taken: its completion, and what has come of it so far."""

    number: int
    completion: Completion
    parsed: ParsedCompletion
    calls: tuple[ToolCall, ...]
    sequence_index: int | None
    span: StepSpan | None
    results: list[ToolResult] = field(default_factory=list[ToolResult])
    observation: str = ""

    def record(self) -> AgentStep:
        """The step as it stands."""
        return AgentStep(
            step_number=self.number,
            assistant_message=self.completion.text,
            completion=self.completion,
            tool_calls=self.calls,
            tool_results=tuple(self.results),
            parse_errors=self.parsed.errors,
            following=({"role": "user", "content": self.observation},) if self.observation else (),
            sequence_index=self.sequence_index,
            span=self.span,
        )


class Loop:
    """The private state of one rollout."""

    def __init__(self, setting: Setting, messages: Sequence[Message], emitter: Emitter) -> None:
        self.setting: Setting = setting
        self.config: AgentConfig = setting.config
        self.emitter = emitter
        self.opening: tuple[Message, ...] = tuple(messages)
        self.history: History = History(messages, setting.renderer, setting.config.history)
        self.capabilities: Capabilities | None = None
        self.steps: list[AgentStep] = []
        self.final_response: str = ""
        self.sampled_tokens: int = 0
        self.tool_calls: int = 0
        self.repairs: int = 0
        self.server_s: float = 0.0
        self.tool_s: float = 0.0
        self.failure: Failure | None = None
        wall = math.inf if self.config.max_wall_time_s is None else self.config.max_wall_time_s
        self.server_budget_s: float = wall
        self.deadline: float = asyncio.get_running_loop().time() + wall

    async def finish(self) -> AgentResult:
        """Run to the end and turn whatever ended it into the record."""
        try:
            reason = await self._until_stopped()
            self.history.check()
            failure = self.failure
        except AtroposAgentError as error:
            reason = _reason_of(error)
            lost = reason is StopReason.SANDBOX_LOST
            failure = Failure.of(error, blame=Blame.POLICY if lost else None)
        sequences = await self._sequences()
        return AgentResult(
            success=reason is StopReason.FINAL_ANSWER,
            final_response=self.final_response,
            stop_reason=reason,
            steps=with_spans(self.steps, sequences),
            sequences=sequences,
            prompt_messages=self.opening,
            total_tokens=self.sampled_tokens,
            failure=failure,
            metadata={
                "wire": None if self.capabilities is None else self.capabilities.wire.value,
                "server_s": round(self.server_s, 6),
                "tool_s": round(self.tool_s, 6),
                "notes": dict(Counter(self.history.notes)),
            },
            breaks=self.history.tracker.breaks(),
        )

    async def _sequences(self) -> tuple[SequenceData, ...]:
        """What was tracked, with the logprobs that can be had afterwards where that is wanted."""
        sequences = self.history.tracker.sequences()
        if self.config.rescore == "off":
            return sequences
        started = time.perf_counter()
        rescored = await rescore(self.setting.policy, sequences, self.server_budget_s - self.server_s)
        self.server_s += time.perf_counter() - started
        self.history.notes += rescored.notes
        return rescored.sequences

    async def _until_stopped(self) -> StopReason:
        try:
            await self.start()
            for number in range(1, self.config.max_steps + 1):
                await self.step(number)
        except Stop as stop:
            return stop.reason
        return StopReason.MAX_STEPS

    async def start(self) -> None:
        """Probe the server once and render the opening."""
        self.capabilities = await self.setting.policy.probe()
        self.history.open(self.capabilities)

    async def step(self, number: int) -> None:
        """One turn. Raises Stop where it is the last one."""
        self.emitter.emit(EventType.STEP_STARTED, step_number=number)
        turn = await self.complete(number)
        self.final_response = turn.parsed.content
        try:
            self._stop_before_tools(turn)
            for call in turn.calls:
                if self.config.max_tool_calls is not None and self.tool_calls >= self.config.max_tool_calls:
                    raise Stop(StopReason.MAX_TOOL_CALLS)
                turn.results.append(await self.call(number, call))
            self._observe(turn)
        finally:
            self.steps.append(turn.record())
        if self.emitter.active:
            errors: list[Json] = [f"{error.kind}: {error.detail}" for error in turn.parsed.errors]
            self.emitter.emit(EventType.STEP_FINISHED, step_number=number, data={"parse_errors": errors})

    async def complete(self, number: int) -> _Turn:
        """Ask for one completion, keep its tokens, parse its text."""
        renderer = self.history.renderer
        completion = self.history.with_its_prompt(resolve_tokens(await self._ask(number), renderer))
        index, span = self.history.add_completion(number, completion) or (None, None)
        counted = completion.token_ids if completion.token_ids is not None else completion.token_bytes
        self.sampled_tokens += (
            len(counted) if counted is not None else completion.usage_completion_tokens or 0
        )
        parsed = parse(
            completion.text,
            inside_reasoning=renderer is not None and renderer.opens_reasoning,
            truncated=completion.finish_reason is FinishReason.LENGTH,
        )
        calls = tuple([_numbered(call, f"{number}.{k}") for k, call in enumerate(parsed.calls, 1)])
        if self.emitter.active:
            data = {"text": completion.text, "finish_reason": completion.finish_reason.value}
            self.emitter.emit(EventType.COMPLETION_FINISHED, step_number=number, data=data)
        return _Turn(number, completion, parsed, calls, index, span)

    async def _ask(self, number: int) -> Completion:
        if asyncio.get_running_loop().time() >= self.deadline:
            raise Stop(StopReason.WALL_TIME)
        config = self.config
        sampling = SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            max_tokens=self._token_limit(),
            seed=None if self.setting.seed is None else step_seed(self.setting.seed, number),
        )
        prompt = self.history.tracker.prompt
        prompt.messages = self.history.messages
        request = RequestInfo(self.setting.rollout_id, number)
        started = time.perf_counter()
        asking = self.setting.policy.complete(prompt, sampling, request=request)
        try:
            return await (asking if math.isinf(self.server_budget_s) else self._within_budget(asking))
        finally:
            waited_s = time.perf_counter() - started
            self.server_s += waited_s
            self.deadline += waited_s

    async def _within_budget(self, asking: Coroutine[object, object, Completion]) -> Completion:
        limit = asyncio.timeout(max(self.server_budget_s - self.server_s, 0.0))
        try:
            async with limit:
                return await asking
        except TimeoutError:
            if limit.expired():
                text = f"max_wall_time_s ({self.config.max_wall_time_s:g} s) is used up at the server"
                self.failure = Failure(FailureKind.WALL_TIME, Blame.INFRASTRUCTURE, True, "WallTime", text)
                raise Stop(StopReason.WALL_TIME) from None
            raise

    def _token_limit(self) -> int | None:
        """Tokens this step may sample; stops the rollout where there is room for none.

        The context is only reckoned with where the prompt goes out as we know it.
        """
        config = self.config
        limits = [config.max_tokens] if config.max_tokens is not None else []
        if config.max_total_tokens is not None:
            if self.sampled_tokens >= config.max_total_tokens:
                raise Stop(StopReason.MAX_TOKENS)
            limits.append(config.max_total_tokens - self.sampled_tokens)
        served, contexts = self.capabilities, [config.max_context_tokens]
        if served is not None and served.wire.takes_ids:
            contexts.append(served.context_length)
        for context in (known for known in contexts if known is not None):
            room = context - len(self.history.tracker.prompt)
            if room <= 0:
                raise Stop(StopReason.CONTEXT_LENGTH)
            limits.append(room)
        return min(limits, default=None)

    def _stop_before_tools(self, turn: _Turn) -> None:
        """Decide whether this completion ends the rollout. Tools of a last step would run for nobody."""
        truncated = turn.completion.finish_reason is FinishReason.LENGTH
        if turn.completion.finish_reason is FinishReason.OTHER and not turn.calls:
            raise ProviderError(
                "the server broke the completion off: neither an end of turn nor a length limit"
            )
        if not turn.calls:
            if not _is_attempt(turn.parsed):
                raise Stop(self._truncation() if truncated else StopReason.FINAL_ANSWER)
            self.repairs += 1
            if self.repairs > self.config.max_repairs:
                raise Stop(StopReason.INVALID_CALLS)
        if turn.number == self.config.max_steps:
            raise Stop(StopReason.MAX_STEPS)

    def _truncation(self) -> StopReason:
        """Which limit cut the last completion: the step's own, or one of the whole rollout."""
        try:
            self._token_limit()
        except Stop as stop:
            return stop.reason
        return StopReason.TRUNCATED

    async def call(self, number: int, call: ToolCall) -> ToolResult:
        """Execute one call within its time limit; a call that does not return becomes an observation."""
        self.tool_calls += 1
        if self.emitter.active:
            data: dict[str, Json] = {"name": call.name, "arguments": call.arguments}
            self.emitter.emit(EventType.TOOL_STARTED, step_number=number, call_id=call.uniq_id, data=data)
        started = time.perf_counter()
        with Entry(Kind.TOOL, call.name, owner=self.setting.rollout_id, step=number, detail=call.arguments):
            result = await self._within_limits(call)
        self.tool_s += time.perf_counter() - started
        if self.emitter.active:
            report: dict[str, Json] = {
                "success": result.success,
                "output": result.output,
                "error": result.error,
            }
            self.emitter.emit(EventType.TOOL_FINISHED, step_number=number, call_id=call.uniq_id, data=report)
        if self.config.tool_delay_s:
            await asyncio.sleep(self.config.tool_delay_s)
        return result

    async def _within_limits(self, call: ToolCall) -> ToolResult:
        own = asyncio.get_running_loop().time() + self.config.tool_timeout_s
        limit = min(own, self.deadline)
        context = replace(self.setting.context, call_id=call.uniq_id, deadline=limit)
        scope = asyncio.timeout_at(limit + TOOL_GRACE_S)
        try:
            async with scope:
                return await self.setting.execute_tool(call, context)
        except SandboxLost:
            raise
        except Exception as error:  # the boundary to a caller's own `execute_tool`
            if not (isinstance(error, TimeoutError) and scope.expired()):
                return failure(f"Tool execution error: {type(error).__name__}: {error}")
        if self.deadline < own:
            raise Stop(StopReason.WALL_TIME)
        return failure(f"{call.name} did not return within {self.config.tool_timeout_s:g} s")

    def _observe(self, turn: _Turn) -> None:
        """Answer the step with one user message; append what the template puts around it to the tokens."""
        completion, errors = turn.completion, turn.parsed.errors
        control = HERMES_TAGS if self.history.renderer is None else self.history.renderer.control_tokens
        blocks = [result_to_xml(result, control) for result in turn.results]
        if any(error.kind is not ParseErrorKind.INSIDE_REASONING for error in errors) or not blocks:
            blocks.append(wrap_observation({"success": False, "error": repair_hint(errors)}, control))
        turn.observation = "\n".join(blocks)
        self.history.add_observation(turn.observation, completion, turn.number)


def _numbered(call: ToolCall, uniq_id: str) -> ToolCall:
    return ToolCall(call.name, call.arguments, uniq_id, call.raw_text, call.span)


def _is_attempt(parsed: ParsedCompletion) -> bool:
    """True where the text without valid calls was meant as a call, or has nothing outside its reasoning."""
    outside = any(error.kind is not ParseErrorKind.INSIDE_REASONING for error in parsed.errors)
    return outside or (bool(parsed.errors) and not parsed.content.strip())


def _reason_of(error: AtroposAgentError) -> StopReason:
    if isinstance(error, ContextOverflow):
        return StopReason.CONTEXT_LENGTH
    if isinstance(error, RequestTimeout):
        return StopReason.REQUEST_TIMEOUT
    return StopReason.SANDBOX_LOST if isinstance(error, SandboxLost) else StopReason.ERROR
