"""An aborted completion and what a second request sampled after it, as one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.joining import joined
from atropos_agent.trajectory import (
    Completion,
    CompletionPart,
    FinishReason,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    SamplingParams,
    Timings,
    ToolCall,
)
from tests.completions import ids_of, logprobs_of

PROMPT = 9


def half(
    ids: list[int],
    *,
    prompt: int = PROMPT,
    seed: int = 1,
    finish: FinishReason = FinishReason.OTHER,
    version: str | None = "7",
    notes: tuple[str, ...] = (),
) -> Completion:
    return Completion(
        "".join(map(chr, ids)),
        np.array(ids, np.int32),
        logprobs=np.array([-token / 8 for token in ids], np.float32),
        finish_reason=finish,
        provenance=Provenance.SAMPLED,
        logprob_provenance=LogprobProvenance.SAMPLED,
        logprob_mode=LogprobMode.RAW,
        usage_prompt_tokens=prompt,
        usage_completion_tokens=len(ids),
        sampling=SamplingParams(seed=seed),
        timings=Timings(1.0, 2.0, 1),
        model="m",
        weight_version=version,
        notes=notes,
    )


FIRST = half([65, 66], notes=("a", "b"))
SECOND = half([67], prompt=11, seed=2, finish=FinishReason.STOP, version="8", notes=("b", "c"))


def test_tokens_stand_in_a_row_and_each_request_is_a_part():
    whole = joined(FIRST, SECOND)
    assert (whole.text, ids_of(whole).tolist()) == ("ABC", [65, 66, 67])
    assert logprobs_of(whole).tolist() == [-65 / 8, -66 / 8, -67 / 8]
    assert whole.parts == (
        CompletionPart(0, "7", FinishReason.OTHER, 9, 2, Timings(1.0, 2.0, 1), 1),
        CompletionPart(2, "8", FinishReason.STOP, 11, 1, Timings(1.0, 2.0, 1), 2),
    )
    assert (whole.weight_version, whole.finish_reason) == ("8", FinishReason.STOP)
    assert (whole.usage_prompt_tokens, whole.usage_completion_tokens) == (9, 3)
    assert (whole.timings, whole.sampling.seed) == (Timings(2.0, 4.0, 2), 1)
    assert whole.notes == ("a", "b", "c")


def test_versions_inside_a_half_are_parts_of_the_whole():
    swapped = replace(
        SECOND, token_ids=np.array([67, 68], np.int32), logprobs=None, usage_completion_tokens=2
    )
    swapped = replace(swapped, parts=(CompletionPart(0, "8"), CompletionPart(1, "9")), weight_version="9")
    whole = joined(FIRST, swapped)
    assert [(part.start, part.weight_version) for part in whole.parts] == [(0, "7"), (2, "8"), (3, "9")]
    _, begun, ended = whole.parts
    assert (begun.timings, begun.usage_prompt_tokens, begun.finish_reason) == (SECOND.timings, 11, None)
    assert (ended.timings, ended.usage_prompt_tokens, ended.finish_reason) == (None, None, FinishReason.STOP)
    assert {begun.seed, ended.seed} == {2}
    assert whole.weight_version == "9"


def test_a_request_that_sampled_nothing_is_no_part():
    nothing = half([], prompt=11, seed=2, finish=FinishReason.LENGTH, notes=("c",))
    whole = joined(FIRST, nothing)
    assert (ids_of(whole).tolist(), whole.parts) == ([65, 66], ())
    assert (whole.finish_reason, whole.timings.attempts) == (FinishReason.LENGTH, 2)
    assert whole.notes == ("a", "b", "c")
    late = joined(half([], seed=2), half([65]))
    assert (ids_of(late).tolist(), late.parts, late.sampling.seed) == ([65], (), 1)


def test_bytes_are_joined_where_a_server_gives_no_ids():
    first = replace(FIRST, token_ids=None, token_bytes=(b"A", b"B"))
    second = replace(SECOND, token_ids=None, token_bytes=(b"C",))
    assert joined(first, second).token_bytes == (b"A", b"B", b"C")


def test_the_lower_provenance_holds_for_the_whole():
    second = replace(SECOND, provenance=Provenance.FROM_LOGPROBS, logprob_mode=LogprobMode.PROCESSED)
    whole = joined(FIRST, replace(second, logprob_provenance=LogprobProvenance.RESCORED))
    assert whole.provenance is Provenance.FROM_LOGPROBS
    assert whole.logprob_provenance is LogprobProvenance.RESCORED
    assert whole.logprob_mode is LogprobMode.UNKNOWN


@pytest.mark.parametrize("swap", [False, True])
def test_logprobs_of_one_half_are_none_of_the_whole_and_noted(swap):
    bare = {"logprobs": None, "logprob_provenance": LogprobProvenance.ABSENT}
    first, second = (replace(FIRST, **bare), SECOND) if swap else (FIRST, replace(SECOND, **bare))
    whole = joined(first, second)
    assert (whole.logprobs, whole.logprob_provenance) == (None, LogprobProvenance.ABSENT)
    assert "logprobs_of_one_part_absent" in whole.notes


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (replace(FIRST, finish_reason=FinishReason.STOP), SECOND, "ended its turn"),
        (FIRST, replace(SECOND, sampling=SamplingParams(temperature=0.5)), "temperature=0.5"),
        (replace(FIRST, token_ids=None, logprobs=None), SECOND, "without token ids"),
        (FIRST, replace(SECOND, token_ids=None, token_bytes=(b"C",)), "only token bytes"),
        (replace(FIRST, reasoning="hm"), SECOND, "parses reasoning or calls"),
        (FIRST, replace(SECOND, calls=(ToolCall("ls"),)), "parses reasoning or calls"),
    ],
)
def test_halves_that_are_not_of_one_completion_are_a_mistake_of_the_caller(first, second, named):
    with pytest.raises(ValueError, match=named) as caught:
        joined(first, second)
    assert not isinstance(caught.value, MalformedReply)


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (replace(SECOND, usage_prompt_tokens=10), "10 prompt tokens of a continuation for 11"),
        (replace(SECOND, model="other"), "'m' was continued by 'other'"),
        (
            replace(SECOND, prompt_token_ids=np.array([1, 2, 65, 67], np.int32)),
            "the prompt of a continuation",
        ),
    ],
)
def test_a_server_that_continues_another_prompt_is_refused(second, named):
    first = replace(FIRST, prompt_token_ids=np.array([1, 2], np.int32))
    with pytest.raises(MalformedReply, match=named):
        joined(first, second)


def test_the_prompts_ids_are_those_of_the_first_request():
    first = replace(FIRST, prompt_token_ids=np.array([1, 2], np.int32))
    second = replace(SECOND, prompt_token_ids=np.array([1, 2, 65, 66], np.int32))
    found = joined(first, second).prompt_token_ids
    assert found is not None
    assert found.tolist() == [1, 2]


@given(st.lists(st.integers(33, 90), max_size=12), st.data())
def test_any_split_gives_the_same_tokens_and_its_parts_cover_them_exactly(ids, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), min_size=1, max_size=4)))
    bounds = [0, *cuts, len(ids)]
    halves = [
        half(ids[start:end], prompt=PROMPT + start, version=str(index), seed=index)
        for index, (start, end) in enumerate(itertools.pairwise(bounds))
    ]
    from_the_left, from_the_right = halves[0], halves[-1]
    for piece in halves[1:]:
        from_the_left = joined(from_the_left, piece)
    for piece in reversed(halves[:-1]):
        from_the_right = joined(piece, from_the_right)
    sampling = [piece for piece in halves if piece.usage_completion_tokens]
    starts = [piece.usage_prompt_tokens - PROMPT for piece in sampling]
    for whole in (from_the_left, from_the_right):
        assert ids_of(whole).tolist() == ids
        assert np.array_equal(logprobs_of(whole), logprobs_of(half(ids)))
        assert whole.text == "".join(map(chr, ids))
        assert [part.start for part in whole.parts] == (starts if len(starts) > 1 else [])
        assert sum(part.usage_completion_tokens for part in whole.parts) == (len(ids) if whole.parts else 0)
        assert [part.seed for part in whole.parts] == [piece.sampling.seed for piece in sampling][
            : len(starts)
        ] * (len(starts) > 1)
        assert whole.timings == Timings(1.0 * len(halves), 2.0 * len(halves), len(halves))
        if sampling:
            assert whole.weight_version == sampling[-1].weight_version
