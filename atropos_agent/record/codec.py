"""A rollout as JSON and back, complete. Field names are those of `trajectory`.

Four things are written shorter than they are held: a mask as runs, logprobs as the values that exist with
the runs where they stand (never a NaN), the ids and logprobs of a step as a reference into its training
sequence wherever they are the same, and a field that holds its default not at all. The size is linear in
the tokens, also where history is rewritten: a branch holds its own tokens only.

Reading checks the fields that it knows: a missing field, a wrong type or a number that is not finite is
refused. Fields that it does not know are left to `unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from atropos_agent.errors import RecordError
from atropos_agent.record.arrays import (
    IdArray,
    Range,
    Runs,
    Side,
    Sparse,
    dense,
    flags,
    ids,
    reference,
    runs,
    side_of,
    sides,
    sparse,
)
from atropos_agent.record.forms import READ, Writer, model_of
from atropos_agent.record.older import upgraded
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Completion,
    Logprobs,
    Rollout,
    SequenceData,
    TokenIds,
    Trace,
)

SCHEMA_VERSION = 3
"""3 has traces, typed messages and failures, and no stored group. Records of 1 and 2 are read as well."""

_ARRAYS = ("token_ids", "token_bytes", "logprobs", "prompt_token_ids")
_write_rollout = Writer(Rollout, skip=["traces"])
_write_trace = Writer(Trace, skip=["result"])
_write_result = Writer(AgentResult, skip=["steps", "sequences"])
_write_step = Writer(AgentStep, skip=["completion"])
_write_completion = Writer(Completion, skip=["text", *_ARRAYS])
_write_sequence = Writer(SequenceData, skip=["own_ids", "own_mask", "own_logprobs", "parent", "side"])


def rollout_to_json(rollout: Rollout) -> dict[str, object]:
    """Everything `rollout` holds, as `encode_line` takes it: JSON with numpy arrays for lists of numbers.

    Raises RecordError for a score, part, time or logprob that is infinite or, outside `logprobs`, NaN.
    """
    return {**_write_rollout(rollout), "traces": [_trace(trace) for trace in rollout.traces]}


def _trace(trace: Trace) -> dict[str, object]:
    return {**_write_trace(trace), "result": _result(trace.result)}


def _result(result: AgentResult) -> dict[str, object]:
    written = _write_result(result)
    whole: dict[int, tuple[TokenIds, Logprobs]] = {}
    if result.steps:
        written["steps"] = [_step(step, result.sequences, whole) for step in result.steps]
    if result.sequences:
        places = {id(sequence): number for number, sequence in enumerate(result.sequences)}
        written["sequences"] = [
            _sequence(sequence, number, places) for number, sequence in enumerate(result.sequences)
        ]
    return written


def _step(
    step: AgentStep, sequences: Sequence[SequenceData], whole: dict[int, tuple[TokenIds, Logprobs]]
) -> dict[str, object]:
    """`whole` keeps the ids and logprobs of each sequence, so that a branch is assembled once."""
    index = step.sequence_index
    if index is None or not 0 <= index < len(sequences):
        return {**_write_step(step), "completion": _completion(step, None, None)}
    if index not in whole:
        whole[index] = sequences[index].token_ids, sequences[index].logprobs
    return {**_write_step(step), "completion": _completion(step, *whole[index])}


def _completion(step: AgentStep, held: TokenIds | None, logprobs: Logprobs | None) -> dict[str, object]:
    completion = step.completion
    start = 0 if step.span is None else step.span.start
    written = _write_completion(completion)
    if completion.text != step.assistant_message:
        written["text"] = completion.text
    if completion.token_ids is not None:
        written["token_ids"] = reference(completion.token_ids, held, start) or ids(completion.token_ids)
    if completion.prompt_token_ids is not None:
        prompt = completion.prompt_token_ids
        written["prompt_token_ids"] = reference(prompt, held, 0) or ids(prompt)
    if completion.token_bytes is not None:
        written["token_bytes"] = [token.hex() for token in completion.token_bytes]
    if completion.logprobs is not None:
        values = completion.logprobs
        written["logprobs"] = reference(values, logprobs, start) or sparse(values)
    return written


def _sequence(sequence: SequenceData, number: int, places: Mapping[int, int]) -> dict[str, object]:
    """A branch whose parent is not among the sequences before it is written whole."""
    parent = None if sequence.parent is None else places.get(id(sequence.parent))
    if sequence.parent is not None and (parent is None or parent >= number):
        sequence = SequenceData(
            sequence.token_ids, sequence.mask, sequence.logprobs, sequence.spans, side=sequence.side
        )
        parent = None
    written = _write_sequence(sequence)
    written["own_ids"] = ids(sequence.own_ids)
    written["own_mask"] = runs(sequence.own_mask)
    written["own_logprobs"] = sparse(sequence.own_logprobs)
    if parent is not None:
        written["parent"] = parent
    if sequence.side:
        written["side"] = sides(sequence.side)
    return written


_IDS, _LOGPROBS = Range | IdArray, Range | Sparse


_CompletionModel = model_of(
    Completion,
    {**READ, "TokenIds": _IDS, "Logprobs": _LOGPROBS},
    text=(str | None, None),
    token_bytes=(tuple[str, ...] | None, None),
)
_SequenceModel = model_of(
    SequenceData,
    {"TokenIds": IdArray, "Mask": Runs, "Logprobs": Sparse, "SequenceData": int},
    side=(dict[str, Side], {}),
)
_StepModel = model_of(AgentStep, {**READ, "Completion": _CompletionModel})
_ResultModel = model_of(AgentResult, {**READ, "AgentStep": _StepModel, "SequenceData": _SequenceModel})
_TraceModel = model_of(Trace, {"AgentResult": _ResultModel})
_ROLLOUT: TypeAdapter[BaseModel] = TypeAdapter(model_of(Rollout, {"Trace": _TraceModel}))


def rollout_from_json(value: Mapping[str, object], schema: int = SCHEMA_VERSION) -> Rollout:
    """The rollout that was written under `schema`, with arrays or lists. Raises RecordError naming the first
    wrong field."""
    try:
        held = vars(_ROLLOUT.validate_python(upgraded(value, schema)))
        return Rollout(**{**held, "traces": tuple(_trace_of(trace) for trace in held["traces"])})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"not a rollout record: `{where}`: {first['msg']}") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise RecordError(f"not a rollout record: {error}") from error


def _trace_of(model: BaseModel) -> Trace:
    held = vars(model)
    return Trace(**{**held, "result": _result_of(held["result"])})


def _result_of(model: BaseModel) -> AgentResult:
    held = vars(model)
    sequences: list[SequenceData] = []
    for sequence in held["sequences"]:
        sequences.append(_sequence_of(vars(sequence), sequences))
    whole: dict[int, tuple[TokenIds, Logprobs]] = {}
    steps = tuple(_step_of(vars(step), sequences, whole) for step in held["steps"])
    return AgentResult(**{**held, "steps": steps, "sequences": tuple(sequences)})


def _sequence_of(held: Mapping[str, Any], earlier: Sequence[SequenceData]) -> SequenceData:
    parent = held["parent"]
    if parent is not None and not 0 <= parent < len(earlier):
        raise RecordError(f"sequence {len(earlier)} names parent {parent}; a parent must come before it")
    values = {
        **held,
        "own_mask": flags(held["own_mask"], len(held["own_ids"])),
        "own_logprobs": dense(held["own_logprobs"]),
        "parent": None if parent is None else earlier[parent],
        "side": {name: side_of(array) for name, array in held["side"].items()},
    }
    return SequenceData(**values)


def _step_of(
    held: Mapping[str, Any],
    sequences: Sequence[SequenceData],
    whole: dict[int, tuple[TokenIds, Logprobs]],
) -> AgentStep:
    index = held["sequence_index"]
    if index is not None and 0 <= index < len(sequences) and index not in whole:
        whole[index] = sequences[index].token_ids, sequences[index].logprobs
    home = None if index is None else whole.get(index)
    completion = _completion_of(vars(held["completion"]), held["assistant_message"], home)
    return AgentStep(**{**held, "completion": completion})


def _completion_of(
    held: Mapping[str, Any], message: str, home: tuple[TokenIds, Logprobs] | None
) -> Completion:
    token_bytes, logprobs = held["token_bytes"], held["logprobs"]
    values = {
        **held,
        "text": message if held["text"] is None else held["text"],
        "token_ids": _ids_of(held["token_ids"], home),
        "prompt_token_ids": _ids_of(held["prompt_token_ids"], home),
        "token_bytes": None if token_bytes is None else tuple(map(bytes.fromhex, token_bytes)),
        "logprobs": dense(logprobs) if isinstance(logprobs, Sparse) else logprobs,
    }
    if isinstance(logprobs, Range):
        values["logprobs"] = _referred(home)[1][logprobs.start : logprobs.end]
    return Completion(**values)


def _ids_of(found: Range | TokenIds | None, home: tuple[TokenIds, Logprobs] | None) -> TokenIds | None:
    return _referred(home)[0][found.start : found.end] if isinstance(found, Range) else found


def _referred(home: tuple[TokenIds, Logprobs] | None) -> tuple[TokenIds, Logprobs]:
    if home is None:
        raise RecordError("a step refers to a sequence that is not there")
    return home
