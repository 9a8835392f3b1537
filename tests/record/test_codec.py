import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings

from atropos_agent.errors import RecordError
from atropos_agent.record.codec import rollout_from_json, rollout_to_json
from atropos_agent.record.jsonl import decode_line, encode_line, free_json, short_floats
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Break,
    BreakKind,
    Completion,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    Rollout,
    SequenceData,
    StepSpan,
    StopReason,
    ToolCall,
    Trace,
)
from tests.rollouts import ANY_SPEED, a_rollout, plain, rollouts


@settings(ANY_SPEED, max_examples=150)
@given(rollouts())
def test_a_rollout_written_and_read_is_the_same_rollout(rollout):
    line = encode_line(rollout_to_json(rollout))
    assert plain(rollout_from_json(decode_line(line))) == plain(rollout)


@settings(ANY_SPEED, max_examples=50)
@given(rollouts())
def test_a_line_is_strict_json_without_nan(rollout):
    line = encode_line(rollout_to_json(rollout))
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} was written"))


def test_every_float32_survives_its_shortest_decimal():
    values = (
        np.random.default_rng(1)
        .integers(0, 2**32, 200_000, dtype=np.uint64)
        .astype(np.uint32)
        .view(np.float32)
    )
    values = values[np.isfinite(values)]
    assert np.array_equal(np.array(short_floats(values), dtype=np.float32), values)


def tracked(turns: int, tokens_per_turn: int = 50) -> Rollout:
    size = turns * tokens_per_turn
    sequence = SequenceData(
        np.arange(size, dtype=np.int32), np.ones(size, np.bool_), np.full(size, -0.5, np.float32)
    )
    steps = []
    for turn in range(turns):
        start, end = turn * tokens_per_turn, (turn + 1) * tokens_per_turn
        span = StepSpan(
            turn + 1, start, end, Provenance.SAMPLED, LogprobProvenance.SAMPLED, LogprobMode.PROCESSED
        )
        completion = Completion(
            "text",
            token_ids=sequence.token_ids[start:end],
            logprobs=sequence.logprobs[start:end],
            prompt_token_ids=sequence.token_ids[:start],
        )
        steps.append(AgentStep(turn + 1, "text", completion, sequence_index=0, span=span))
    result = AgentResult(True, "", StopReason.FINAL_ANSWER, steps=tuple(steps), sequences=(sequence,))
    return Rollout("r", "i", 0, (Trace(result, score=1.0),))


def test_the_size_is_linear_in_the_turns():
    small, large = (len(encode_line(rollout_to_json(tracked(turns)))) for turns in (20, 80))
    assert large < 4.5 * small


@pytest.mark.parametrize("field", ["score", "duration_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_name(field, value):
    rollout = Rollout("r", "i", 0, (Trace(AgentResult(True, "", StopReason.FINAL_ANSWER)),), **{field: value})
    with pytest.raises(RecordError, match=field):
        rollout_to_json(rollout)


def test_what_a_policy_makes_up_is_always_recorded():
    nested: dict = {}
    deepest = nested
    for _ in range(500):
        deepest["a"] = {}
        deepest = deepest["a"]
    arguments = {
        "big": 10**40,
        "nan": float("nan"),
        "deep": nested,
        "half": "\ud83d",
        "\ud800": 1,
        "ü😀": "ü😀",
    }
    step = AgentStep(1, "half \udc00", Completion("half \udc00"), tool_calls=(ToolCall("t", arguments),))
    rollout = Rollout("r", "i", 0, (Trace(AgentResult(True, "", StopReason.FINAL_ANSWER, steps=(step,))),))
    read = rollout_from_json(decode_line(encode_line(rollout_to_json(rollout))))
    kept = read.result.steps[0].tool_calls[0].arguments
    assert kept["big"] == hex(10**40)
    assert kept["nan"] == "nan"
    assert kept["half"] == "\ufffd"
    assert kept["ü😀"] == "ü😀"
    assert read.result.steps[0].assistant_message == "half \ufffd"


def test_free_json_keeps_what_json_can_hold():
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": -(2**63)}}
    assert free_json(value) == value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stop_reason": "bored"}, "stop_reason"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"score": "high"}, "score"),
    ],
)
def test_a_wrong_field_is_named(change, named):
    record = orjson.loads(encode_line(rollout_to_json(tracked(1))))
    with pytest.raises(RecordError, match=named):
        rollout_from_json(record | change)


def test_a_missing_field_is_named():
    record = dict(rollout_to_json(tracked(1)))
    del record["steps"]
    with pytest.raises(RecordError, match="steps"):
        rollout_from_json(record)


def test_a_record_of_schema_1_has_no_breaks():
    record = dict(rollout_to_json(a_rollout(sequences=2)))
    assert rollout_from_json(record).result.breaks == (Break(2, BreakKind.TEMPLATE),)
    del record["breaks"]
    assert rollout_from_json(record).result.breaks == ()


def test_a_run_outside_its_sequence_is_refused():
    record = orjson.loads(encode_line(rollout_to_json(tracked(1))))
    record["sequences"][0]["mask"] = [[0, 51]]
    with pytest.raises(RecordError, match="51"):
        rollout_from_json(record)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"\x00\x00", b'"text"'])
def test_a_line_that_is_no_object_is_refused(line):
    with pytest.raises(RecordError):
        decode_line(line)
