"""One run of an agent: a conversation that can be continued, cancelled, resumed, and read at any time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from atropos_agent.agent.acting import Actor
from atropos_agent.agent.budget import Budget
from atropos_agent.agent.conversation import Conversation, joined, neutral
from atropos_agent.agent.rescoring import rescore, with_spans
from atropos_agent.agent.resuming import replay
from atropos_agent.agent.setting import Setting
from atropos_agent.agent.stepping import Counts, Stepper, Stop
from atropos_agent.errors import (
    AtroposAgentError,
    ConfigError,
    ContextOverflow,
    RecordError,
    RequestTimeout,
    SandboxLost,
)
from atropos_agent.events import Emitter, EventType, Listener
from atropos_agent.policy.foreign import answered
from atropos_agent.record.checks import require_messages
from atropos_agent.toolset import failure
from atropos_agent.toolset.calls import OutOfTime
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Blame,
    Failure,
    Message,
    SequenceData,
    Spent,
    StopReason,
    ToolResult,
    Trace,
    UserMessage,
)

NOT_EXECUTED = "Not executed: the turn ended before this call."


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended: the policy's last text outside reasoning and calls, and the stop reason."""

    response: str
    stop_reason: StopReason


class Run:
    """One conversation with the policy. Made by `AtroposAgent.start`; used as an async context manager.

    An error of the server, the renderer or the sandbox ends the turn and is recorded (`stop_reason`,
    `failure`) with everything so far. Programming errors and a caller's cancellation propagate; `result`
    then holds what was recorded up to there. `traces` are those of other agents that calls ran.
    `passed_over` is the result of the first turn that failed and was followed by another message: the
    conversation lacks what that turn would have given.
    """

    def __init__(
        self,
        setting: Setting,
        opening: Sequence[Message],
        listeners: Sequence[Listener] = (),
        resume: AgentResult | None = None,
    ) -> None:
        self.traces: list[Trace] = []
        self.passed_over: AgentResult | None = None
        self._setting = setting
        self._opening: tuple[Message, ...] = tuple(opening)
        self._emitter = Emitter(setting.rollout_id, listeners)
        self._budget = Budget(setting.config.max_wall_time_s, Spent() if resume is None else resume.spent)
        self._actor = Actor(setting, self._budget, self._emitter, self.traces)
        self._stepper = Stepper(setting, self._conversation(), self._budget, self._emitter, self._actor)
        self._stop_reason = StopReason.UNFINISHED if resume is None else resume.stop_reason
        self._failure: Failure | None = None if resume is None else resume.failure
        self._turn_task: asyncio.Task[object] | None = None
        self._cancel_asked = False
        self._was_cancelled = False  # by `cancel`, in any turn
        self._cancels_before = 0
        self._unanswered: UserMessage | None = None  # of a turn that ended before its first step
        self._is_stale = True  # the conversation may not match the recorded steps
        self._recorded: AgentResult | None = resume  # until the conversation is rebuilt from it
        self._final: AgentResult | None = None
        if resume is not None:
            self._stepper.take_over(resume)

    async def __aenter__(self) -> Self:
        self._emitter.emit(EventType.RUN_STARTED)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self._check_bridges()
        self._final = self.result()
        self._emitter.emit(EventType.RUN_FINISHED, result=self._final)
        await self._emitter.drain()

    async def turn(self, message: str | UserMessage | None = None) -> TurnResult:
        """Take steps until the policy gives a final answer or a limit ends the turn.

        `message` is the user's. None continues the conversation as it is: after initial messages, a limit,
        a cancel or a resume. `max_steps`, `max_tool_calls` and `max_repairs` count within a turn, all other
        limits within the run. Raises ConfigError if there is nothing to answer or another turn is running.
        """
        task = self._require_turn(message)
        if message is not None and self._failure is not None and self.passed_over is None:
            self.passed_over = self.result()
        self._turn_task, self._cancel_asked, self._cancels_before = task, False, task.cancelling()
        self._stop_reason, self._failure = StopReason.UNFINISHED, None
        self._budget.begin_turn()
        try:
            await self._take_turn(message)
            if self._cancel_asked:
                # It comes as the turn ends, or a tool swallowed it: take it here, not in the caller's code.
                await asyncio.sleep(0)
                raise asyncio.CancelledError
        except asyncio.CancelledError:
            self._stop_reason, self._failure = StopReason.CANCELLED, None
            self._was_cancelled = True
            self._raise_foreign_cancel(task)
        except BaseException as error:
            self._stop_reason, self._failure = StopReason.ERROR, Failure.of(error)
            raise
        finally:
            self._budget.end_turn()
            self._turn_task = None
            if self._emitter.active:
                self._emit_turn_finished()
        return TurnResult(self._stepper.final_response, self._stop_reason)

    def cancel(self) -> None:
        """End the current turn: `turn` returns with StopReason.CANCELLED. No effect between turns.

        The request is dropped and running calls are cancelled. What they changed so far stays changed.
        """
        if self._turn_task is not None and not self._cancel_asked:
            self._cancel_asked = True
            self._turn_task.cancel()

    def result(self) -> AgentResult:
        """Everything recorded so far; `stop_reason` is UNFINISHED before the first turn and inside one."""
        if self._final is not None:
            return self._final
        if self._recorded is not None:
            success = self._stop_reason is StopReason.FINAL_ANSWER
            return replace(
                self._recorded, success=success, stop_reason=self._stop_reason, failure=self._failure
            )
        stepper, tracker = self._stepper, self._stepper.conversation.tracker
        sequences = tracker.sequences()
        capabilities = stepper.capabilities
        return AgentResult(
            success=self._stop_reason is StopReason.FINAL_ANSWER,
            final_response=stepper.final_response,
            stop_reason=self._stop_reason,
            steps=with_spans(stepper.recorded(), sequences),
            sequences=sequences,
            prompt_messages=self._opening,
            total_tokens=stepper.counts.sampled_tokens,
            failure=self._failure,
            metadata={
                "wire": None if capabilities is None else capabilities.wire.value,
                "notes": dict(Counter(stepper.conversation.notes)),
            },
            breaks=tracker.breaks(),
            spent=self._budget.spent(),
            turns=stepper.turn,
        )

    async def single_step(
        self, *, execute_tools: bool
    ) -> tuple[str, tuple[ToolResult, ...], SequenceData | None]:
        """One completion for the opening: its text, the results of its calls, its training sequence.

        Errors are raised, not recorded. Raises ContextOverflow if a limit leaves no room or no time.
        """
        stepper = self._stepper
        self._budget.begin_turn()
        try:
            stepper.conversation = await self._opened()
            step = await stepper.complete(1)
            if execute_tools and step.calls:
                await self._actor.act(step, step.calls)
        except (Stop, OutOfTime) as stop:
            reason = stop.reason if isinstance(stop, Stop) else StopReason.WALL_TIME
            raise ContextOverflow(f"the single turn was stopped by its own limit: {reason}") from None
        sequences = stepper.conversation.tracker.sequences()
        return step.completion.text, tuple(step.results), sequences[0] if sequences else None

    def _conversation(self) -> Conversation:
        return Conversation(self._opening, self._setting.renderer, self._setting.config.history)

    def _require_turn(self, message: str | UserMessage | None) -> asyncio.Task[object]:
        """The task that takes the turn. Raises ConfigError if none can be taken."""
        if message is not None and not isinstance(message, str):
            require_messages([message])
        if self._turn_task is not None:
            raise ConfigError("a turn of this run is still running; wait for it, or start another run")
        if self._final is not None:
            raise ConfigError("this run is closed; continue with agent.start(resume=run.result())")
        last = self._stepper.steps[-1] if self._stepper.steps else None
        answered = last is not None and not (last.following or last.tool_calls or last.parse_errors)
        if message is None and (answered or not (last or self._opening)):
            raise ConfigError("nothing to answer: the conversation waits for a message; pass it to turn()")
        task = asyncio.current_task()
        assert task is not None
        return task

    def _raise_foreign_cancel(self, task: asyncio.Task[object]) -> None:
        """Raise CancelledError unless the cancellation came from `cancel` alone."""
        if not self._cancel_asked or task.uncancel() > self._cancels_before:
            raise asyncio.CancelledError

    async def _take_turn(self, message: str | UserMessage | None) -> None:
        stepper = self._stepper
        if message is not None or not stepper.steps:
            stepper.turn += 1
            stepper.counts = Counts(stepper.counts.sampled_tokens)
        self._emitter.emit(EventType.TURN_STARTED, data={"turn": stepper.turn})
        try:
            await self._enter(None if message is None else neutral(message, self._setting.renderer))
            self._is_stale, taken = True, len(stepper.steps)
            try:
                await stepper.until_stopped()
            finally:
                if len(stepper.steps) > taken:
                    self._unanswered = None
        except Stop as stop:
            self._stop_reason, self._failure, self._is_stale = stop.reason, stop.failure, False
        except RecordError:  # the caller resumed with another tokenizer or template: nothing to record
            raise
        except AtroposAgentError as error:
            self._fail(error)
        if stepper.turn & (stepper.turn - 1) == 0:  # turns 1, 2, 4, 8, ...: linear cost in all
            self._check_bridges()
        await self._rescore()

    async def _enter(self, message: UserMessage | None) -> None:
        """Bring the conversation to the point where the next completion can be requested."""
        stepper = self._stepper
        if not stepper.steps:
            if message is not None:
                self._opening += (message,)
            stepper.conversation = await self._opened()
            return
        if message is not None:
            message = message if self._unanswered is None else joined(self._unanswered, message)
            self._unanswered = message
        last = stepper.steps[-1]
        if message is None and last.following:
            if self._is_stale:
                await self._rebuild(stepper.steps)
            return
        if last.following or self._is_stale:
            # The dialect puts results and a new user message into one answer: write the last answer again.
            last = replace(last, following=())
            await self._rebuild([*stepper.steps[:-1], last])
        missing = [failure(NOT_EXECUTED) for _ in last.tool_calls[len(last.tool_results) :]]
        results = (*last.tool_results, *missing)
        following = stepper.answer(results, last, message)
        self._is_stale = True  # until the tokens have followed
        stepper.steps[-1] = replace(last, tool_results=results, following=following)
        stepper.conversation.add_following(following, last.completion, last.step_number)

    async def _opened(self) -> Conversation:
        """A new conversation that holds the opening only."""
        policy = self._setting.policy
        self._stepper.capabilities = capabilities = await answered(policy, policy.probe())
        conversation = self._conversation()
        conversation.open(capabilities)
        return conversation

    async def _rebuild(self, steps: Sequence[AgentStep]) -> None:
        """Replace the conversation by a new one on which `steps` were replayed."""
        sequences = self.result().sequences
        conversation = await self._opened()
        replay(conversation, steps, sequences)
        self._stepper.conversation, self._recorded = conversation, None

    def _check_bridges(self) -> None:
        """Compare all bridges so far with the template; a mismatch fails the run."""
        if self._failure is None and self._stop_reason is not StopReason.CANCELLED:
            try:
                self._stepper.conversation.check()
            except AtroposAgentError as error:
                self._fail(error)

    def _fail(self, error: AtroposAgentError) -> None:
        self._stop_reason = _reason_of(error)
        # A cancel kills the command that runs, and the sandbox with it: that is not the policy's doing.
        lost = self._stop_reason is StopReason.SANDBOX_LOST and not self._was_cancelled
        self._failure = Failure.of(error, blame=Blame.POLICY if lost else None)

    async def _rescore(self) -> None:
        """Ask for missing logprobs after the turn, if `config.rescore` wants it."""
        if self._setting.config.rescore == "off":
            return
        conversation = self._stepper.conversation
        with self._budget.at_server():
            rescored = await rescore(
                self._setting.policy, conversation.tracker.sequences(), self._budget.server_left_s
            )
        conversation.notes += rescored.notes
        conversation.tracker.adopt(rescored.sequences)

    def _emit_turn_finished(self) -> None:
        data = {"response": self._stepper.final_response, "stop_reason": self._stop_reason.value}
        self._emitter.emit(EventType.TURN_FINISHED, data=data)


def _reason_of(error: AtroposAgentError) -> StopReason:
    if isinstance(error, ContextOverflow):
        return StopReason.CONTEXT_LENGTH
    if isinstance(error, RequestTimeout):
        return StopReason.REQUEST_TIMEOUT
    return StopReason.SANDBOX_LOST if isinstance(error, SandboxLost) else StopReason.ERROR
