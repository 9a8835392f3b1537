"""The vocabulary of the project: what a rollout is made of. Data only; imports nothing but errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from atropos_agent.errors import AmbiguousTrajectory, RecordError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
TokenIds: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]
Logprobs: TypeAlias = NDArray[np.float32]

IGNORED_TOKEN = -100
IGNORED_LOGPROB = 1.0
HERMES_TAGS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)


class Message(TypedDict):
    """One chat message. Tool observations are user messages (Hermes convention)."""

    role: Literal["system", "user", "assistant"]
    content: str


class StopReason(StrEnum):
    """Why a rollout ended. The first group is the policy's own doing, the last is infrastructure."""

    FINAL_ANSWER = "final_answer"
    MAX_STEPS = "max_steps"
    MAX_TOKENS = "max_tokens"
    MAX_TOOL_CALLS = "max_tool_calls"
    CONTEXT_LENGTH = "context_length"
    TRUNCATED = "truncated"
    INVALID_CALLS = "invalid_calls"
    SANDBOX_LOST = "sandbox_lost"
    WALL_TIME = "wall_time"
    REQUEST_TIMEOUT = "request_timeout"
    ERROR = "error"


class Provenance(StrEnum):
    """Where the token ids of a step come from."""

    SAMPLED = "sampled"
    FROM_LOGPROBS = "from_logprobs"
    RETOKENIZED = "retokenized"


class LogprobProvenance(StrEnum):
    """Where the logprobs of a step come from."""

    SAMPLED = "sampled"
    RESCORED = "rescored"
    ABSENT = "absent"


class LogprobMode(StrEnum):
    """Which distribution a logprob belongs to: the model's own, or the one sampled from."""

    RAW = "raw"
    PROCESSED = "processed"
    UNKNOWN = "unknown"


class BreakKind(StrEnum):
    """Why a prompt does not begin with all that came before it, so that another sequence was begun.

    `template`: our own rendering of the messages shows the same rewritten history. `retokenisation`: the
    same text in other ids. `other`: neither, or not to be told without a tokenizer.
    """

    TEMPLATE = "template"
    RETOKENISATION = "retokenisation"
    OTHER = "other"


class FinishReason(StrEnum):
    """Why the server stopped generating."""

    STOP = "stop"
    LENGTH = "length"
    OTHER = "other"


class ParseErrorKind(StrEnum):
    """What is wrong with a tool call in a completion."""

    UNCLOSED = "unclosed"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_NAME = "missing_name"
    BAD_ARGUMENTS = "bad_arguments"
    MALFORMED_TAG = "malformed_tag"
    INSIDE_REASONING = "inside_reasoning"
    UNCLOSED_REASONING = "unclosed_reasoning"
    TRAILING_TEXT = "trailing_text"


@dataclass(frozen=True, slots=True)
class ParseError:
    """One thing the parser could not take as a call; `span` is [start, end) in characters."""

    kind: ParseErrorKind
    detail: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the policy wrote it; `span` covers the tags, [start, end) in characters of the completion.

    `uniq_id` is assigned by us and unique within a rollout; an id the model wrote is never trusted.
    """

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict[str, Json])
    uniq_id: str = ""
    raw_text: str = ""
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave. `to_xml` is what the policy reads; `details` is for the record only."""

    success: bool
    output: str = ""
    error: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    uniq_id: str | None = None
    details: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def to_dict(self) -> dict[str, Json]:
        """All five wire keys, always."""
        return {
            "success": self.success,
            "output": self.output,
            "error": self.error,
            "metadata": self.metadata,
            "uniq_id": self.uniq_id,
        }

    def to_xml(self, control: Sequence[str] = HERMES_TAGS) -> str:
        """The observation: `<tool_response>{"success", "output", ["error"], ["metadata"]}</tool_response>`.

        Every text of `control` (Hermes tags, the tokenizer's added tokens) that a tool printed is escaped
        inside the JSON, so that it decodes to the same string but never encodes to a control token. No
        random id: the same result is the same observation.
        """
        body: dict[str, Json] = {"success": self.success, "output": self.output}
        if self.error:
            body["error"] = self.error
        if self.metadata:
            body["metadata"] = self.metadata
        return wrap_observation(body, control)


_ENCODER = json.JSONEncoder(ensure_ascii=False)


def wrap_observation(body: Mapping[str, Json], control: Sequence[str] = HERMES_TAGS) -> str:
    """Encode `body` as one `<tool_response>` block in which no text of `control` survives literally."""
    return f"<tool_response>{_neutral_json(body, control)}</tool_response>"


def _neutral_json(body: Mapping[str, Json], control: Sequence[str]) -> str:
    text = _ENCODER.encode(body)
    for token in control:
        if token in text:
            text = text.replace(token, f"\\u{ord(token[0]):04x}{token[1:]}")
    return text


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a completion is sampled. Everything not listed is asked for neutrally.

    `max_tokens=None` leaves the bound to the server and to the context length.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    seed: int | None = None

    @property
    def is_neutral(self) -> bool:
        """True where raw logprobs are those of the sampling distribution."""
        return self.temperature == 1.0 and not self.truncates

    @property
    def truncates(self) -> bool:
        """True where some tokens cannot be sampled at all."""
        return self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds one completion spent waiting for our own semaphore and at the server; requests made."""

    queued_s: float = 0.0
    request_s: float = 0.0
    attempts: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One completion as the server reported it.

    `token_ids` int32[n] and `logprobs` float32[n] (NaN where the server gave none) include a sampled stop
    token if the server reported it. Both are None where the server gives no ids. A server that names its
    sampled tokens only by their bytes fills `token_bytes` instead of `token_ids`. `text` has the final
    end-of-turn cut. `prompt_token_ids` is set only where the server rendered the prompt itself.
    """

    text: str
    token_ids: TokenIds | None = None
    token_bytes: tuple[bytes, ...] | None = None
    logprobs: Logprobs | None = None
    finish_reason: FinishReason = FinishReason.STOP
    provenance: Provenance = Provenance.RETOKENIZED
    logprob_provenance: LogprobProvenance = LogprobProvenance.ABSENT
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    prompt_token_ids: TokenIds | None = None
    usage_prompt_tokens: int | None = None
    usage_completion_tokens: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    weight_version: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tokens = self.token_ids if self.token_ids is not None else self.token_bytes
        if tokens is not None and self.logprobs is not None:
            _require_equal("Completion", tokens=len(tokens), logprobs=len(self.logprobs))


@dataclass(frozen=True, slots=True)
class StepSpan:
    """The sampled tokens of one step inside a sequence: [start, end), and what is known of them."""

    step_number: int
    start: int
    end: int
    provenance: Provenance
    logprob_provenance: LogprobProvenance
    logprob_mode: LogprobMode


@dataclass(frozen=True, slots=True)
class Break:
    """Where a later sequence of a rollout begins: the first step it holds, and why it was begun."""

    step_number: int
    kind: BreakKind


@dataclass(frozen=True, slots=True, eq=False)
class SequenceData:
    """One training sequence: `token_ids` int32[T], `mask` bool[T] (True where the policy sampled the
    token), `logprobs` float32[T] (NaN where there is none), aligned index by index.

    `tokens`, `masked_tokens` and `masked_logprobs` are the Atropos views of the same data.
    """

    token_ids: TokenIds
    mask: Mask
    logprobs: Logprobs
    spans: tuple[StepSpan, ...] = ()

    def __post_init__(self) -> None:
        _require_equal(
            "SequenceData", token_ids=len(self.token_ids), mask=len(self.mask), logprobs=len(self.logprobs)
        )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def tokens(self) -> list[int]:
        """The ids as a list."""
        ids: list[int] = self.token_ids.tolist()
        return ids

    @property
    def masked_tokens(self) -> list[int]:
        """The id where the policy sampled it, -100 elsewhere."""
        masked: list[int] = np.where(self.mask, self.token_ids, IGNORED_TOKEN).tolist()
        return masked

    @property
    def has_all_logprobs(self) -> bool:
        """True where every trained token has a logprob."""
        return not bool(np.isnan(self.logprobs[self.mask]).any())

    @property
    def masked_logprobs(self) -> list[float] | None:
        """The logprob where the policy sampled the token, 1.0 elsewhere; None if any of them is missing."""
        if not self.has_all_logprobs:
            return None
        values: list[float] = np.where(self.mask, self.logprobs, np.float32(IGNORED_LOGPROB)).tolist()
        return values


def _require_equal(owner: str, **lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}={length}" for name, length in lengths.items())
        raise RecordError(f"{owner} needs arrays of one length, got {listed}")


@dataclass(frozen=True, slots=True, eq=False)
class AgentStep:
    """One turn: what the policy wrote, what was called, what came back. Numbered from 1.

    `observation` is the user message that answered it ("" after a final answer); `sequence_index` and
    `span` locate its sampled tokens in `AgentResult.sequences` (None where nothing was tracked).
    """

    step_number: int
    assistant_message: str
    completion: Completion
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    parse_errors: tuple[ParseError, ...] = ()
    observation: str = ""
    sequence_index: int | None = None
    span: StepSpan | None = None

    @property
    def has_tool_calls(self) -> bool:
        """True where at least one call was parsed."""
        return bool(self.tool_calls)


@dataclass(frozen=True, slots=True, eq=False)
class AgentResult:
    """What one rollout of the agent recorded. `total_tokens` counts sampled tokens.

    `breaks[i]` says why `sequences[i + 1]` was begun.
    """

    success: bool
    final_response: str
    stop_reason: StopReason
    steps: tuple[AgentStep, ...] = ()
    sequences: tuple[SequenceData, ...] = ()
    prompt_messages: tuple[Message, ...] = ()
    total_tokens: int = 0
    error: str | None = None
    error_type: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    breaks: tuple[Break, ...] = ()

    @property
    def num_steps(self) -> int:
        """Completed steps."""
        return len(self.steps)

    @property
    def total_tool_calls(self) -> int:
        """Parsed calls over all steps."""
        return sum(len(step.tool_calls) for step in self.steps)

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
        """Assistant and observation messages of all steps, without the system and task messages."""
        messages: list[Message] = []
        for step in self.steps:
            messages.append({"role": "assistant", "content": step.assistant_message})
            if step.observation:
                messages.append({"role": "user", "content": step.observation})
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


@dataclass(frozen=True, slots=True)
class Score:
    """A verifier's judgement: the reward, its named parts, and what else it wants on record."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One attempt at one item, scored or failed. `score` is None exactly when it must not be scored.

    `parts` are the named parts of the score; `isolation` what the sandbox really enforced.
    """

    id: str
    item_id: str
    index: int
    result: AgentResult
    score: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    isolation: Mapping[str, Json] = field(default_factory=dict[str, Json])
    started_at: float = 0.0
    duration_s: float = 0.0
    attempts: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """The rollouts of one item that are baselined together; `repetition` counts passes over the items."""

    item_id: str
    repetition: int
    rollouts: tuple[Rollout, ...]


class ScoredDataGroup(TypedDict):
    """Exactly atroposlib's keys; every list has one entry per rollout. `inference_logprobs` is absent
    where any trained token lacks a logprob."""

    tokens: list[list[int]]
    masks: list[list[int]]
    scores: list[float]
    advantages: list[list[float]] | None
    ref_logprobs: list[list[float]] | None
    messages: list[list[Message]] | None
    generation_params: dict[str, Json] | None
    inference_logprobs: NotRequired[list[list[float]]]
    group_overrides: dict[str, Json] | None
    overrides: list[dict[str, Json]] | None
    images: list[Json] | None
