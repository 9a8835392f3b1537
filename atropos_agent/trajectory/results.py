"""What one run of an agent recorded: its steps, why it ended, and its training sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from atropos_agent.errors import AmbiguousTrajectory
from atropos_agent.trajectory.completions import Completion
from atropos_agent.trajectory.failures import Failure
from atropos_agent.trajectory.messages import AssistantMessage, Message, MessageCall, text_of
from atropos_agent.trajectory.sequences import Break, SequenceData, StepSpan
from atropos_agent.trajectory.tools import ParseError, ToolCall, ToolResult
from atropos_agent.trajectory.values import Json


class StopReason(StrEnum):
    """Why a rollout ended. The policy causes the reasons up to WALL_TIME. UNFINISHED is never recorded: it
    marks a result that was read while its run continues."""

    FINAL_ANSWER = "final_answer"
    MAX_STEPS = "max_steps"
    MAX_TOKENS = "max_tokens"
    MAX_TOOL_CALLS = "max_tool_calls"
    CONTEXT_LENGTH = "context_length"
    TRUNCATED = "truncated"
    INVALID_CALLS = "invalid_calls"
    SANDBOX_LOST = "sandbox_lost"
    WALL_TIME = "wall_time"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"
    REQUEST_TIMEOUT = "request_timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True, eq=False)
class AgentStep:
    """One step: what the policy wrote, what was called, what came back. Numbered from 1 over all turns.

    `following` are the messages between this completion and the next one: tool results, a repair text, a
    further user turn. `executed` names each call as it was executed where the gate changed one (None: not
    executed); empty where all of `tool_calls` were executed as written. `sequence_index` and `span` locate
    the sampled tokens in `AgentResult.sequences` (None where nothing was tracked).
    """

    step_number: int
    assistant_message: str
    completion: Completion
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    parse_errors: tuple[ParseError, ...] = ()
    following: tuple[Message, ...] = ()
    sequence_index: int | None = None
    span: StepSpan | None = None
    turn: int = 1
    executed: tuple[ToolCall | None, ...] = ()

    @property
    def has_tool_calls(self) -> bool:
        """True where at least one call was parsed."""
        return bool(self.tool_calls)

    @property
    def observation(self) -> str:
        """The text of the messages that answered this step ("" after a final answer)."""
        return "\n".join([text_of(message) for message in self.following])

    @property
    def message(self) -> AssistantMessage:
        """The policy's message, with what the server kept apart from its text."""
        message: AssistantMessage = {"role": "assistant", "content": self.assistant_message}
        return completed(message, self.completion)


def completed(message: AssistantMessage, completion: Completion) -> AssistantMessage:
    """`message` with the reasoning and the calls that the server parsed out of the text itself."""
    if completion.reasoning:
        message["reasoning"] = completion.reasoning
    if completion.calls:
        message["tool_calls"] = [_as_message_call(call) for call in completion.calls]
    return message


def _as_message_call(call: ToolCall) -> MessageCall:
    return {
        "id": call.uniq_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used of its limits: seconds at the server, in tools, and of its own time in total."""

    server_s: float = 0.0
    tool_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class AgentResult:
    """What one run of the agent recorded. `total_tokens` counts sampled tokens.

    `breaks[i]` says why `sequences[i + 1]` was begun. `failure` says what ended the run early; None where
    it ended by itself or at a limit of its own. `turns` counts those that began, also those without a step.
    """

    success: bool
    final_response: str
    stop_reason: StopReason
    steps: tuple[AgentStep, ...] = ()
    sequences: tuple[SequenceData, ...] = ()
    prompt_messages: tuple[Message, ...] = ()
    total_tokens: int = 0
    failure: Failure | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    breaks: tuple[Break, ...] = ()
    spent: Spent = field(default_factory=Spent)
    turns: int = 0

    @property
    def num_steps(self) -> int:
        """Completed steps."""
        return len(self.steps)

    @property
    def total_tool_calls(self) -> int:
        """Parsed calls over all steps."""
        return sum(len(step.tool_calls) for step in self.steps)

    @property
    def error(self) -> str | None:
        """The failure in words."""
        return None if self.failure is None else self.failure.text

    @property
    def error_type(self) -> str | None:
        """The name of the error that ended the run."""
        return None if self.failure is None else self.failure.error_type

    @property
    def trajectory_data(self) -> SequenceData | None:
        """The only training sequence; None if nothing was tracked.

        Raises AmbiguousTrajectory where the history was rewritten and there are several.
        """
        if len(self.sequences) > 1:
            raise AmbiguousTrajectory(
                f"this rollout has {len(self.sequences)} training sequences; iterate `sequences` instead"
            )
        return self.sequences[0] if self.sequences else None

    def to_messages(self) -> list[Message]:
        """The messages of all steps and what followed each, without the opening (`prompt_messages`)."""
        messages: list[Message] = []
        for step in self.steps:
            messages += [step.message, *step.following]
        return messages

    def to_scored_data(self, score: float) -> dict[str, Json] | None:
        """`{tokens, masks, scores, logprobs}` in the Atropos convention, or None if nothing was tracked.

        `logprobs` is absent where any trained token has none. Raises AmbiguousTrajectory.
        """
        data = self.trajectory_data
        if data is None:
            return None
        scored: dict[str, Json] = {"tokens": data.tokens, "masks": data.masked_tokens, "scores": score}
        if (logprobs := data.masked_logprobs) is not None:
            scored["logprobs"] = logprobs
        return scored
