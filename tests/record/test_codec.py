import json
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given, settings

from atropos_agent.errors import RecordError
from atropos_agent.record.codec import rollout_from_json, rollout_to_json
from atropos_agent.record.jsonl import decode_line, encode_line, free_json, short_floats
from atropos_agent.record.unknown import unknown_in, with_unknown
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Completion,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    Rollout,
    SequenceData,
    Spent,
    StepSpan,
    StopReason,
    ToolCall,
    Trace,
    branch_of,
)
from tests.rollouts import ANY_SPEED, NAN, a_rollout, plain, rollouts, with_result


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


FAILED = AgentResult(True, "", StopReason.FINAL_ANSWER)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("score", lambda value: {"traces": (Trace(FAILED, score=value),)}),
        ("parts.a", lambda value: {"traces": (Trace(FAILED, parts={"a": value}),)}),
        ("step_rewards", lambda value: {"traces": (Trace(FAILED, step_rewards=(None, value)),)}),
        ("server_s", lambda value: {"traces": (Trace(replace(FAILED, spent=Spent(value))),)}),
        ("duration_s", lambda value: {"duration_s": value}),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_name(name, changed, value):
    with pytest.raises(RecordError, match=name):
        rollout_to_json(replace(Rollout("r", "i", 0, (Trace(FAILED),)), **changed(value)))


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


def a_record() -> dict:
    return orjson.loads(encode_line(rollout_to_json(tracked(1))))


def result_of(record) -> dict:
    return record["traces"][0]["result"]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"stop_reason": "bored"}, "stop_reason"), ({"total_tokens": "many"}, "total_tokens")],
)
def test_a_wrong_field_is_named(change, named):
    record = a_record()
    result_of(record).update(change)
    with pytest.raises(RecordError, match=named):
        rollout_from_json(record)


def test_a_missing_field_is_named():
    record = a_record()
    del result_of(record)["stop_reason"]
    with pytest.raises(RecordError, match=r"traces.0.result.stop_reason"):
        rollout_from_json(record)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "narrator", "content": "x"},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": [{"type": "sound", "url": "x"}]},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function"}]},
    ],
)
def test_a_message_of_no_known_form_is_refused(message):
    record = a_record()
    result_of(record)["prompt_messages"] = [message]
    with pytest.raises(RecordError, match="prompt_messages"):
        rollout_from_json(record)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:a.png"}}]},
    ],
)
def test_an_opening_with_a_tool_message_or_parts_is_written_and_read(message):
    rollout = with_result(a_rollout(), prompt_messages=(message,))
    assert rollout_from_json(rollout_to_json(rollout)).result.prompt_messages == (message,)


def test_a_cancelled_rollout_has_its_record():
    cancelled = with_result(a_rollout(score=None), stop_reason=StopReason.CANCELLED)
    assert plain(rollout_from_json(rollout_to_json(cancelled))) == plain(cancelled)


def test_a_run_outside_its_sequence_is_refused():
    record = a_record()
    result_of(record)["sequences"][0]["own_mask"] = [[0, 51]]
    with pytest.raises(RecordError, match="51"):
        rollout_from_json(record)


def test_a_parent_that_stands_behind_its_branch_is_refused():
    record = a_record()
    result_of(record)["sequences"][0]["parent"] = 0
    with pytest.raises(RecordError, match="parent 0"):
        rollout_from_json(record)


def a_context(length: int) -> SequenceData:
    nothing = np.full(length, NAN, np.float32)
    return SequenceData(np.arange(length, dtype=np.int32), np.zeros(length, np.bool_), nothing)


def test_a_branch_costs_its_own_tokens_and_no_more():
    parent = a_context(5000)
    ids = np.append(parent.token_ids, np.int32(7))
    span = StepSpan(1, 5000, 5001, Provenance.SAMPLED, LogprobProvenance.ABSENT, LogprobMode.UNKNOWN)
    sampled = np.append(parent.mask, True)
    branch = branch_of(parent, ids, sampled, np.full(5001, NAN, np.float32), (span,))
    one, two = (
        len(encode_line(rollout_to_json(with_result(a_rollout(), steps=(), sequences=held))))
        for held in ((parent,), (parent, branch))
    )
    assert two - one < 500


def test_a_branch_of_a_sequence_that_is_not_recorded_is_written_whole():
    parent = a_context(9)
    branch = branch_of(parent, parent.token_ids, parent.mask, parent.logprobs, ())
    assert branch.parent is parent
    read = rollout_from_json(rollout_to_json(with_result(a_rollout(), steps=(), sequences=(branch,))))
    assert read.result.sequences[0].tokens == list(range(9))


def test_a_side_array_of_objects_is_refused():
    sequence = replace(a_rollout().result.sequences[0], side={"notes": np.array([None] * 4)})
    with pytest.raises(RecordError, match="side array"):
        rollout_to_json(with_result(a_rollout(), sequences=(sequence,)))


UNKNOWN = {"added later": [1, {"a": None}]}


def test_what_is_not_known_survives_reading_and_writing():
    record = a_record()
    result = result_of(record)
    step = result["steps"][0]
    for level in (record, record["traces"][0], result, step, step["completion"], step["span"]):
        level.update(UNKNOWN)
    result["sequences"][0].update(UNKNOWN)
    written = decode_line(encode_line(rollout_to_json(rollout_from_json(record))))
    assert written != record
    assert with_unknown(written, unknown_in(record, written)) == record


@settings(ANY_SPEED, max_examples=30)
@given(rollouts())
def test_nothing_is_unknown_in_what_was_just_written(rollout):
    record = decode_line(encode_line(rollout_to_json(rollout)))
    again = decode_line(encode_line(rollout_to_json(rollout_from_json(record))))
    assert again == record
    assert not unknown_in(record, again)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"\x00\x00", b'"text"'])
def test_a_line_that_is_no_object_is_refused(line):
    with pytest.raises(RecordError):
        decode_line(line)
