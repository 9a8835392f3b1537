"""The steps of a turn: complete, parse, act, observe, until something stops it."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

from atropos_agent.agent.acting import Actor
from atropos_agent.agent.budget import Budget
from atropos_agent.agent.conversation import Conversation
from atropos_agent.agent.setting import Setting
from atropos_agent.agent.tokens import resolve_tokens
from atropos_agent.dialects import ParsedCompletion
from atropos_agent.errors import ProviderError
from atropos_agent.events import Emitter, EventType
from atropos_agent.policy import RequestInfo
from atropos_agent.policy.foreign import answered
from atropos_agent.policy.protocol import Capabilities
from atropos_agent.toolset.calls import OutOfTime
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
    SamplingParams,
    StepSpan,
    StopReason,
    ToolCall,
    ToolResult,
    UserMessage,
)


def step_seed(seed: int, step_number: int) -> int:
    """The sampling seed of one step, in [0, 2**31)."""
    digest = hashlib.blake2b(f"{seed}/{step_number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class Stop(Exception):
    """Ends a turn with a reason, and with a failure where one caused it."""

    def __init__(self, reason: StopReason, failure: Failure | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.failure = failure


@dataclass(slots=True)
class OpenStep:
    """A step in progress: its completion, its calls and the results so far."""

    number: int
    turn: int
    completion: Completion
    parsed: ParsedCompletion
    calls: tuple[ToolCall, ...]
    sequence_index: int | None
    span: StepSpan | None
    executed: tuple[ToolCall | None, ...] = ()
    results: list[ToolResult] = field(default_factory=list[ToolResult])
    following: tuple[Message, ...] = ()

    def record(self) -> AgentStep:
        """The step with what is known so far."""
        return AgentStep(
            step_number=self.number,
            assistant_message=self.completion.text,
            completion=self.completion,
            tool_calls=self.calls,
            tool_results=tuple(self.results),
            parse_errors=self.parsed.errors,
            following=self.following,
            sequence_index=self.sequence_index,
            span=self.span,
            turn=self.turn,
            executed=self.executed,
        )


@dataclass(slots=True)
class Counts:
    """What the limits bound: sampled tokens of the run; steps, calls and repairs of the turn."""

    sampled_tokens: int = 0
    steps: int = 0
    tool_calls: int = 0
    repairs: int = 0


class Stepper:
    """Takes the steps of one run, one after the other."""

    def __init__(
        self, setting: Setting, conversation: Conversation, budget: Budget, emitter: Emitter, actor: Actor
    ) -> None:
        self.conversation: Conversation = conversation
        self.capabilities: Capabilities | None = None
        self.steps: list[AgentStep] = []
        self.counts: Counts = Counts()
        self.turn: int = 0
        self.final_response: str = ""
        self._setting = setting
        self._budget = budget
        self._emitter = emitter
        self._actor = actor
        self._open: OpenStep | None = None

    def recorded(self) -> list[AgentStep]:
        """The steps so far, with the one whose calls are running."""
        return self.steps if self._open is None else [*self.steps, self._open.record()]

    def take_over(self, recorded: AgentResult) -> None:
        """Continue with the steps and the counts of a recorded run."""
        self.steps = list(recorded.steps)
        self.final_response = recorded.final_response
        # Records of earlier versions do not count turns.
        self.turn = recorded.turns or (self.steps[-1].turn if self.steps else 0)
        inside = [step for step in self.steps if step.turn == self.turn]
        renderer, dialect = self.conversation.renderer, self._setting.dialect
        opened = renderer is not None and renderer.opens_reasoning
        read = [dialect.read(step.completion, inside_reasoning=opened) for step in inside]
        self.counts = Counts(
            sampled_tokens=recorded.total_tokens,
            steps=len(inside),
            tool_calls=sum(len(step.tool_results) for step in inside),
            repairs=sum(parsed.attempts_call and not parsed.calls for parsed in read),
        )

    async def until_stopped(self) -> None:
        """Take steps until Stop is raised. Errors of the server and the renderer propagate."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Take one step. Raises Stop where it is the last one."""
        number = len(self.steps) + 1
        if self.counts.steps >= self._setting.config.max_steps:  # a turn that continues after this limit
            raise Stop(StopReason.MAX_STEPS)
        self._emitter.emit(EventType.STEP_STARTED, step_number=number)
        step = await self.complete(number)
        self.counts.steps += 1
        self.final_response = step.parsed.content
        self._open = step
        try:
            self._stop_before_tools(step)
            await self._act(step)
            self._observe(step)
        finally:  # also where Stop or an error ends the turn: what was executed so far must be recorded
            self._open = None
            self.steps.append(step.record())
        if self._emitter.active:
            errors: list[Json] = [f"{error.kind}: {error.detail}" for error in step.parsed.errors]
            self._emitter.emit(EventType.STEP_FINISHED, step_number=number, data={"parse_errors": errors})

    async def complete(self, number: int) -> OpenStep:
        """Ask for one completion, keep its tokens, parse its text."""
        conversation, dialect = self.conversation, self._setting.dialect
        renderer = conversation.renderer
        answer = await self._ask(number)
        if renderer is None or (answer.token_ids is None and answer.token_bytes is None):
            # Without tokens to decode, calls that the server parsed out of the text are missing from it.
            answer = dialect.restored(answer)
        completion = conversation.with_its_prompt(resolve_tokens(answer, renderer, conversation.messages))
        index, span = conversation.add_completion(number, completion) or (None, None)
        counted = completion.token_ids if completion.token_ids is not None else completion.token_bytes
        self.counts.sampled_tokens += (
            len(counted) if counted is not None else completion.usage_completion_tokens or 0
        )
        opened = renderer is not None and renderer.opens_reasoning
        parsed = dialect.read(completion, inside_reasoning=opened)
        calls = tuple([_numbered(call, f"{number}.{k}") for k, call in enumerate(parsed.calls, 1)])
        if self._emitter.active:
            data = {"text": completion.text, "finish_reason": completion.finish_reason.value}
            self._emitter.emit(EventType.COMPLETION_FINISHED, step_number=number, data=data)
            if parsed.reasoning:
                self._emitter.emit(EventType.THOUGHT, step_number=number, data={"text": parsed.reasoning})
        return OpenStep(number, self.turn, completion, parsed, calls, index, span)

    async def _ask(self, number: int) -> Completion:
        if self._budget.is_over:
            raise Stop(StopReason.WALL_TIME)
        config, setting = self._setting.config, self._setting
        sampling = SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            max_tokens=self._token_limit(),
            seed=None if setting.seed is None else step_seed(setting.seed, number),
        )
        prompt = self.conversation.tracker.prompt
        prompt.messages = self.conversation.messages
        request = RequestInfo(setting.rollout_id, number)
        asking = answered(setting.policy, setting.policy.complete(prompt, sampling, request=request))
        with self._budget.at_server():
            return await (asking if math.isinf(self._budget.wall_s) else self._within_budget(asking))

    async def _within_budget(self, asking: Coroutine[object, object, Completion]) -> Completion:
        limit = asyncio.timeout(max(self._budget.server_left_s, 0.0))
        try:
            async with limit:
                return await asking
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"max_wall_time_s ({self._budget.wall_s:g} s) is used up at the server"
            failure = Failure(FailureKind.WALL_TIME, Blame.INFRASTRUCTURE, True, "WallTime", text)
            raise Stop(StopReason.WALL_TIME, failure) from None

    def _token_limit(self) -> int | None:
        """Tokens this step may sample; None without a limit. Raises Stop if there is no room for any.

        The server's context length counts only on wires that take ids: there the prompt's length is exact.
        """
        config, sampled = self._setting.config, self.counts.sampled_tokens
        limits = [config.max_tokens] if config.max_tokens is not None else []
        if config.max_total_tokens is not None:
            if sampled >= config.max_total_tokens:
                raise Stop(StopReason.MAX_TOKENS)
            limits.append(config.max_total_tokens - sampled)
        served, contexts = self.capabilities, [config.max_context_tokens]
        if served is not None and served.wire.takes_ids:
            contexts.append(served.context_length)
        for context in (known for known in contexts if known is not None):
            room = context - len(self.conversation.tracker.prompt)
            if room <= 0:
                raise Stop(StopReason.CONTEXT_LENGTH)
            limits.append(room)
        return min(limits, default=None)

    def _stop_before_tools(self, step: OpenStep) -> None:
        """Raise Stop if this completion ends the turn. The last step runs no tools: the policy would not
        see the results."""
        truncated = step.completion.finish_reason is FinishReason.LENGTH
        if step.completion.finish_reason is FinishReason.OTHER and not step.calls:
            raise ProviderError(
                "the server broke the completion off: neither an end of turn nor a length limit"
            )
        if not step.calls:
            if not step.parsed.attempts_call:
                raise Stop(self._truncation() if truncated else StopReason.FINAL_ANSWER)
            self.counts.repairs += 1
            if self.counts.repairs > self._setting.config.max_repairs:
                raise Stop(StopReason.INVALID_CALLS)
        if self.counts.steps >= self._setting.config.max_steps:
            raise Stop(StopReason.MAX_STEPS)

    def _truncation(self) -> StopReason:
        """Which limit cut the last completion: the step's own, or one of the whole run."""
        try:
            self._token_limit()
        except Stop as stop:
            return stop.reason
        return StopReason.TRUNCATED

    async def _act(self, step: OpenStep) -> None:
        """Execute the calls of a step that are within the limit."""
        most = self._setting.config.max_tool_calls
        allowed = step.calls if most is None else step.calls[: max(most - self.counts.tool_calls, 0)]
        if allowed:
            try:
                await self._actor.act(step, allowed)
            except OutOfTime:
                raise Stop(StopReason.WALL_TIME) from None
            finally:
                self.counts.tool_calls += len(step.results)
        if len(allowed) < len(step.calls):
            raise Stop(StopReason.MAX_TOOL_CALLS)

    def _observe(self, step: OpenStep) -> None:
        """Answer the step; append what the template puts around the answer to the tokens."""
        step.following = self.answer(step.results, step)
        self.conversation.add_following(step.following, step.completion, step.number)

    def answer(
        self,
        results: Sequence[ToolResult],
        step: OpenStep | AgentStep,
        message: UserMessage | None = None,
    ) -> tuple[Message, ...]:
        """The messages that answer `step`, in the dialect's format."""
        renderer, dialect = self.conversation.renderer, self._setting.dialect
        control = dialect.marks.control_texts if renderer is None else renderer.control_tokens
        errors = step.parsed.errors if isinstance(step, OpenStep) else step.parse_errors
        return dialect.answer(results, errors, control=control, message=message)


def _numbered(call: ToolCall, uniq_id: str) -> ToolCall:
    return ToolCall(call.name, call.arguments, uniq_id, call.raw_text, call.span)
