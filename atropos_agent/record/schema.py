"""The shape of a recorded rollout, as it is checked when read. Strict: nothing unknown, nothing missing."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from atropos_agent.trajectory import (
    Break,
    FinishReason,
    LogprobMode,
    LogprobProvenance,
    ParseError,
    Provenance,
    SamplingParams,
    StepSpan,
    StopReason,
    Timings,
)

SCHEMA_VERSION = 2
"""2 has `breaks`; records of 1 are read as well."""


class _Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


class RangeRecord(_Record):
    """Positions [start, end) of the step's own sequence."""

    start: int
    end: int


class SparseRecord(_Record):
    """float32[length]: `values` in order at the runs `at`, NaN elsewhere."""

    length: int
    at: list[tuple[int, int]]
    values: list[float]


class MessageRecord(_Record):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class CallRecord(_Record):
    """A ToolCall."""

    name: str
    arguments: dict[str, JsonValue]
    uniq_id: str
    raw_text: str
    span: tuple[int, int]


class ToolResultRecord(_Record):
    """A ToolResult."""

    success: bool
    output: str
    error: str
    metadata: dict[str, JsonValue]
    uniq_id: str | None
    details: dict[str, JsonValue]


class CompletionRecord(_Record):
    """A Completion; `text` is null where it is the step's assistant message."""

    text: str | None
    token_ids: RangeRecord | list[int] | None
    token_bytes: list[str] | None
    logprobs: RangeRecord | SparseRecord | None
    finish_reason: FinishReason
    provenance: Provenance
    logprob_provenance: LogprobProvenance
    logprob_mode: LogprobMode
    prompt_token_ids: RangeRecord | list[int] | None
    usage_prompt_tokens: int | None
    usage_completion_tokens: int | None
    sampling: SamplingParams
    timings: Timings
    model: str
    weight_version: str | None
    notes: tuple[str, ...]


class StepRecord(_Record):
    """An AgentStep."""

    step_number: int
    assistant_message: str
    observation: str
    tool_calls: list[CallRecord]
    tool_results: list[ToolResultRecord]
    parse_errors: tuple[ParseError, ...]
    sequence_index: int | None
    span: StepSpan | None
    completion: CompletionRecord


class SequenceRecord(_Record):
    """A SequenceData; `mask` as runs [start, end)."""

    token_ids: list[int]
    mask: list[tuple[int, int]]
    logprobs: SparseRecord
    spans: tuple[StepSpan, ...]


class RolloutRecord(_Record):
    """A Rollout with its AgentResult."""

    id: str
    item_id: str
    index: int
    score: float | None
    parts: dict[str, float]
    stop_reason: StopReason
    success: bool
    error: str | None
    error_type: str | None
    final_response: str
    total_tokens: int
    attempts: int
    started_at: float
    duration_s: float
    isolation: dict[str, JsonValue]
    metadata: dict[str, JsonValue]
    result_metadata: dict[str, JsonValue]
    prompt_messages: list[MessageRecord]
    steps: list[StepRecord]
    sequences: list[SequenceRecord]
    breaks: tuple[Break, ...] = ()
