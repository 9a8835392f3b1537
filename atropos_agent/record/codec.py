"""A rollout as JSON and back, complete. Field names are those of `trajectory.py`.

Three things are written shorter than they are held: a mask as runs, logprobs as the values that exist
with the runs where they stand (never a NaN), and the ids and logprobs of a step as a reference into its
training sequence wherever they are the same. The size is linear in the tokens.

Reading is strict: an unknown or missing field, a wrong type or a number that is not finite is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from pydantic import ValidationError

from atropos_agent.errors import RecordError
from atropos_agent.record.jsonl import free_json, short_floats
from atropos_agent.record.schema import RangeRecord, RolloutRecord, SequenceRecord, SparseRecord, StepRecord
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Blame,
    Completion,
    Failure,
    FailureKind,
    Json,
    Logprobs,
    Mask,
    Message,
    Rollout,
    SamplingParams,
    SequenceData,
    StepSpan,
    Timings,
    TokenIds,
    ToolCall,
    ToolResult,
    Trace,
    text_of,
)


def rollout_to_json(rollout: Rollout) -> dict[str, Json]:
    """Everything `rollout` holds, as JSON. Raises RecordError for a score, part, time or logprob that is
    infinite or, outside `logprobs`, not a number."""
    result = rollout.result
    return {
        "id": rollout.id,
        "item_id": rollout.item_id,
        "index": rollout.index,
        "score": None if rollout.score is None else _finite("score", rollout.score),
        "parts": {name: _finite(f"parts.{name}", value) for name, value in rollout.parts.items()},
        "stop_reason": result.stop_reason.value,
        "success": result.success,
        "error": result.error,
        "error_type": result.error_type,
        "final_response": result.final_response,
        "total_tokens": result.total_tokens,
        "attempts": rollout.attempts,
        "started_at": _finite("started_at", rollout.started_at),
        "duration_s": _finite("duration_s", rollout.duration_s),
        "isolation": free_json(rollout.isolation),
        "metadata": free_json(rollout.metadata),
        "result_metadata": free_json(result.metadata),
        "prompt_messages": [_message(message) for message in result.prompt_messages],
        "steps": [_step(step, result.sequences) for step in result.steps],
        "sequences": [_sequence(sequence) for sequence in result.sequences],
        "breaks": [{"step_number": found.step_number, "kind": found.kind.value} for found in result.breaks],
    }


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise RecordError(f"`{name}` is {value}; a record holds finite numbers only")
    return float(value)


def _message(message: Message) -> dict[str, Json]:
    return {"role": message["role"], "content": text_of(message)}


def _step(step: AgentStep, sequences: Sequence[SequenceData]) -> dict[str, Json]:
    sequence = _home(step, sequences)
    return {
        "step_number": step.step_number,
        "assistant_message": step.assistant_message,
        "observation": step.observation,
        "tool_calls": [_call(call) for call in step.tool_calls],
        "tool_results": [_tool_result(result) for result in step.tool_results],
        "parse_errors": [
            {"kind": error.kind.value, "detail": error.detail, "span": list(error.span)}
            for error in step.parse_errors
        ],
        "sequence_index": step.sequence_index,
        "span": None if step.span is None else _span(step.span),
        "completion": _completion(step, sequence),
    }


def _home(step: AgentStep, sequences: Sequence[SequenceData]) -> SequenceData | None:
    index = step.sequence_index
    return sequences[index] if index is not None and 0 <= index < len(sequences) else None


def _call(call: ToolCall) -> dict[str, Json]:
    return {
        "name": call.name,
        "arguments": free_json(call.arguments),
        "uniq_id": call.uniq_id,
        "raw_text": call.raw_text,
        "span": list(call.span),
    }


def _tool_result(result: ToolResult) -> dict[str, Json]:
    return {
        "success": result.success,
        "output": result.output,
        "error": result.error,
        "metadata": free_json(result.metadata),
        "uniq_id": result.uniq_id,
        "details": free_json(result.details),
    }


def _span(span: StepSpan) -> dict[str, Json]:
    return {
        "step_number": span.step_number,
        "start": span.start,
        "end": span.end,
        "provenance": span.provenance.value,
        "logprob_provenance": span.logprob_provenance.value,
        "logprob_mode": span.logprob_mode.value,
    }


def _completion(step: AgentStep, sequence: SequenceData | None) -> dict[str, Json]:
    completion = step.completion
    start = 0 if step.span is None else step.span.start
    return {
        "text": None if completion.text == step.assistant_message else completion.text,
        "token_ids": _ids(completion.token_ids, sequence, start),
        "token_bytes": None if completion.token_bytes is None else [b.hex() for b in completion.token_bytes],
        "logprobs": _completion_logprobs(completion, sequence, start),
        "finish_reason": completion.finish_reason.value,
        "provenance": completion.provenance.value,
        "logprob_provenance": completion.logprob_provenance.value,
        "logprob_mode": completion.logprob_mode.value,
        "prompt_token_ids": _ids(completion.prompt_token_ids, sequence, 0),
        "usage_prompt_tokens": completion.usage_prompt_tokens,
        "usage_completion_tokens": completion.usage_completion_tokens,
        "sampling": _sampling(completion.sampling),
        "timings": _timings(completion.timings),
        "model": completion.model,
        "weight_version": completion.weight_version,
        "notes": list(completion.notes),
    }


def _sampling(sampling: SamplingParams) -> dict[str, Json]:
    return {
        "temperature": _finite("temperature", sampling.temperature),
        "top_p": _finite("top_p", sampling.top_p),
        "top_k": sampling.top_k,
        "min_p": _finite("min_p", sampling.min_p),
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
    }


def _timings(timings: Timings) -> dict[str, Json]:
    return {
        "queued_s": _finite("queued_s", timings.queued_s),
        "request_s": _finite("request_s", timings.request_s),
        "attempts": timings.attempts,
    }


def _ids(ids: TokenIds | None, sequence: SequenceData | None, start: int) -> Json:
    """The ids as a list, or as [start, end) of the sequence where they are the same."""
    if ids is None:
        return None
    end = start + len(ids)
    if sequence is not None and np.array_equal(sequence.token_ids[start:end], ids):
        return {"start": start, "end": end}
    listed: list[int] = ids.tolist()
    return listed


def _completion_logprobs(completion: Completion, sequence: SequenceData | None, start: int) -> Json:
    values = completion.logprobs
    if values is None:
        return None
    end = start + len(values)
    if sequence is not None and np.array_equal(sequence.logprobs[start:end], values, equal_nan=True):
        return {"start": start, "end": end}
    return _sparse(values)


def _sequence(sequence: SequenceData) -> dict[str, Json]:
    return {
        "token_ids": sequence.tokens,
        "mask": _runs(sequence.mask),
        "logprobs": _sparse(sequence.logprobs),
        "spans": [_span(span) for span in sequence.spans],
    }


def _sparse(logprobs: Logprobs) -> dict[str, Json]:
    """The logprobs that exist, in order, and the runs of positions where they stand."""
    if np.isinf(logprobs).any():
        raise RecordError("a logprob is infinite; what a server did not say is NaN inside and absent outside")
    present = ~np.isnan(logprobs)
    return {"length": len(logprobs), "at": _runs(present), "values": short_floats(logprobs[present])}


def _runs(flags: Mask) -> list[list[int]]:
    """[start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    runs: list[list[int]] = edges.reshape(-1, 2).tolist()
    return runs


def rollout_from_json(value: Mapping[str, Json]) -> Rollout:
    """The rollout that `rollout_to_json` wrote. Raises RecordError naming the first wrong field."""
    try:
        record = RolloutRecord.model_validate(value)
        return _rollout_of(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"not a rollout record: `{where}`: {first['msg']}") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise RecordError(f"not a rollout record: {error}") from error


def _rollout_of(record: RolloutRecord) -> Rollout:
    sequences = tuple(_sequence_of(sequence) for sequence in record.sequences)
    result = AgentResult(
        success=record.success,
        final_response=record.final_response,
        stop_reason=record.stop_reason,
        steps=tuple(_step_of(step, sequences) for step in record.steps),
        sequences=sequences,
        prompt_messages=tuple(
            [cast("Message", {"role": m.role, "content": m.content}) for m in record.prompt_messages]
        ),
        total_tokens=record.total_tokens,
        failure=None
        if record.error is None
        else Failure(FailureKind.OTHER, Blame.INFRASTRUCTURE, True, record.error_type or "", record.error),
        metadata=record.result_metadata,
        breaks=record.breaks,
    )
    return Rollout(
        id=record.id,
        item_id=record.item_id,
        index=record.index,
        traces=(Trace(result, score=record.score, parts=record.parts),),
        metadata=record.metadata,
        isolation=record.isolation,
        started_at=record.started_at,
        duration_s=record.duration_s,
        attempts=record.attempts,
    )


def _sequence_of(record: SequenceRecord) -> SequenceData:
    length = len(record.token_ids)
    return SequenceData(
        own_ids=np.array(record.token_ids, dtype=np.int32),
        own_mask=_flags(record.mask, length),
        own_logprobs=_dense(record.logprobs),
        spans=record.spans,
    )


def _step_of(record: StepRecord, sequences: Sequence[SequenceData]) -> AgentStep:
    index = record.sequence_index
    home = sequences[index] if index is not None and 0 <= index < len(sequences) else None
    return AgentStep(
        step_number=record.step_number,
        assistant_message=record.assistant_message,
        completion=_completion_of(record, home),
        tool_calls=tuple(
            ToolCall(call.name, call.arguments, call.uniq_id, call.raw_text, call.span)
            for call in record.tool_calls
        ),
        tool_results=tuple(
            ToolResult(item.success, item.output, item.error, item.metadata, item.uniq_id, item.details)
            for item in record.tool_results
        ),
        parse_errors=record.parse_errors,
        following=({"role": "user", "content": record.observation},) if record.observation else (),
        sequence_index=index,
        span=record.span,
    )


def _completion_of(step: StepRecord, home: SequenceData | None) -> Completion:
    record = step.completion
    return Completion(
        text=step.assistant_message if record.text is None else record.text,
        token_ids=_ids_of(record.token_ids, home),
        token_bytes=None if record.token_bytes is None else tuple(map(bytes.fromhex, record.token_bytes)),
        logprobs=_logprobs_of(record.logprobs, home),
        finish_reason=record.finish_reason,
        provenance=record.provenance,
        logprob_provenance=record.logprob_provenance,
        logprob_mode=record.logprob_mode,
        prompt_token_ids=_ids_of(record.prompt_token_ids, home),
        usage_prompt_tokens=record.usage_prompt_tokens,
        usage_completion_tokens=record.usage_completion_tokens,
        sampling=record.sampling,
        timings=record.timings,
        model=record.model,
        weight_version=record.weight_version,
        notes=record.notes,
    )


def _ids_of(record: RangeRecord | list[int] | None, home: SequenceData | None) -> TokenIds | None:
    if record is None:
        return None
    if isinstance(record, RangeRecord):
        return _referred(home).token_ids[record.start : record.end]
    return np.array(record, dtype=np.int32)


def _logprobs_of(record: RangeRecord | SparseRecord | None, home: SequenceData | None) -> Logprobs | None:
    if record is None:
        return None
    if isinstance(record, RangeRecord):
        return _referred(home).logprobs[record.start : record.end]
    return _dense(record)


def _referred(home: SequenceData | None) -> SequenceData:
    if home is None:
        raise RecordError("a step refers to a sequence that is not there")
    return home


def _dense(record: SparseRecord) -> Logprobs:
    values = np.full(record.length, np.nan, dtype=np.float32)
    values[_flags(record.at, record.length)] = record.values
    return values


def _flags(runs: Sequence[tuple[int, int]], length: int) -> Mask:
    flags = np.zeros(length, dtype=np.bool_)
    for start, end in runs:
        if not 0 <= start < end <= length:
            raise RecordError(f"a run [{start}, {end}) lies outside {length} positions")
        flags[start:end] = True
    return flags
