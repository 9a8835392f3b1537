"""Versions of the weights inside one completion: which tokens each of them sampled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import MalformedReply
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.policy.wires import Asked, ChatFormat, SglangFormat, VllmGenerateFormat
from atropos_agent.policy.wires.chat import UNPLACED_VERSIONS
from atropos_agent.policy.wires.weight_versions import read_versions
from atropos_agent.testing import FakePolicy, FakeReply, FakeServer
from atropos_agent.trajectory import CompletionPart, SamplingParams
from tests.completions import ids_of

SAMPLING = SamplingParams(max_tokens=50)
SWAPPED = FakeReply("hello", weight_versions={"7": 0, "8": 3})
PARTS = (CompletionPart(0, "7"), CompletionPart(3, "8"))


def span(version: object, start: int, end: int) -> dict[str, object]:
    return {"version": version, "start": start, "end": end}


@pytest.mark.parametrize("wire", [Wire.VLLM_GENERATE, Wire.SGLANG, Wire.CHAT_IDS])
async def test_two_versions_inside_one_completion_are_two_parts(wire, prompt):
    async with (
        FakeServer(lambda ask: SWAPPED if ask.session else "ok", wire=wire) as server,
        HttpPolicy(server.url) as policy,
    ):
        await policy.probe()
        server.script = lambda ask: SWAPPED
        completion = await policy.complete(prompt, SAMPLING)
    assert completion.parts == PARTS
    assert completion.weight_version == "8"


@pytest.mark.parametrize("wire", [Wire.VLLM_GENERATE, Wire.SGLANG, Wire.CHAT_IDS])
async def test_one_version_is_no_part(wire, prompt):
    async with (
        FakeServer(lambda ask: FakeReply("hello", weight_versions={"7": 0}), wire=wire) as server,
        HttpPolicy(server.url) as policy,
    ):
        completion = await policy.complete(prompt, SAMPLING)
    assert (completion.parts, completion.weight_version) == ((), "7")


@pytest.mark.parametrize("wire", [Wire.CHAT])
async def test_versions_of_tokens_that_are_not_given_are_noted_without_a_place(wire, prompt):
    async with FakeServer(lambda ask: SWAPPED, wire=wire) as server, HttpPolicy(server.url) as policy:
        completion = await policy.complete(prompt, SAMPLING)
    assert (completion.parts, completion.weight_version) == ((), "8")
    assert UNPLACED_VERSIONS in completion.notes


def test_vllm_names_its_versions_beside_the_choices():
    entries = [{"token_id": token, "logprob": -0.5} for token in (5, 6, 7)]
    choice = {"token_ids": [5, 6, 7], "logprobs": {"content": entries}, "finish_reason": "stop"}
    answer = {"choices": [choice], "weight_versions": [span("step-7", 0, 2), span("step-8", 2, 3)]}
    completion = VllmGenerateFormat("m").read(answer, Asked())
    assert completion.parts == (CompletionPart(0, "step-7"), CompletionPart(2, "step-8"))


def test_sglang_names_its_versions_in_the_meta_info():
    meta = {
        "finish_reason": {"type": "stop"},
        "output_token_logprobs": [[-0.5, 5, None], [-0.25, 6, None]],
        "weight_version": "8",
        "weight_versions": [span("7", 0, 1), span("8", 1, 2)],
    }
    completion = SglangFormat("m").read({"text": "hi", "meta_info": meta}, Asked())
    assert completion.parts == (CompletionPart(0, "7"), CompletionPart(1, "8"))


def test_sglang_names_the_version_of_a_chat_in_its_metadata():
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    answer = {"choices": [choice], "metadata": {"weight_version": "7"}}
    assert ChatFormat("m").read(answer, Asked()).weight_version == "7"


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ([span("7", 1, 5)], r"weight_versions\[0\]"),
        ([span("7", 0, 3), span("8", 2, 5)], r"weight_versions\[1\]"),
        ([span("7", 0, 3), span("8", 4, 5)], r"weight_versions\[1\]"),
        ([span("7", 0, 3), span("8", 3, 1)], r"weight_versions\[1\]"),
        ([span("7", 0, 3), span("8", 3, 6)], "token 6 of 5"),
        ([span("7", 0, 3)], "token 3 of 5"),
        ([span(None, 0, 5)], r"weight_versions\[0\]"),
        (["7", "8"], r"weight_versions\[0\]"),
        ("7", "weight_versions is '7'"),
    ],
)
def test_spans_that_do_not_follow_each_other_to_the_end_are_refused(listed, named):
    with pytest.raises(MalformedReply, match=named):
        read_versions({"weight_versions": listed, "weight_version": "8"}, 5)


def test_a_span_without_tokens_is_no_part():
    spans = [span("7", 0, 0), span("8", 0, 4), span("9", 4, 4)]
    assert read_versions({"weight_versions": spans}, 4) == ("8", ())
    assert read_versions({"weight_versions": [span("7", 0, 0)]}, 0) == ("7", ())


@pytest.mark.parametrize("reported", [{}, {"weight_versions": None}, {"weight_versions": []}])
def test_a_server_that_names_no_version_has_none(reported):
    assert read_versions(reported, 5) == (None, ())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=8))
def test_every_token_has_the_version_that_its_span_names(runs):
    spans, versions = [], list[str]()
    for version, length in runs:
        spans.append(span(version, len(versions), len(versions) + length))
        versions += [str(version)] * length
    last, parts = read_versions({"weight_versions": spans}, len(versions))
    ends = [*(part.start for part in parts), len(versions)][1:]
    found = [
        part.weight_version for part, end in zip(parts, ends, strict=True) for _ in range(part.start, end)
    ]
    assert found == versions if parts else len(set(versions)) <= 1
    assert len(parts) != 1
    assert last == (versions[-1] if versions else str(runs[-1][0]))


async def test_a_scripted_policy_has_versions_too(prompt):
    completion = await FakePolicy([SWAPPED]).complete(prompt, SAMPLING)
    assert (completion.parts, completion.weight_version) == (PARTS, "8")
    cut = await FakePolicy([SWAPPED]).complete(prompt, SamplingParams(max_tokens=3))
    assert (cut.parts, cut.weight_version, len(ids_of(cut))) == ((), "7", 3)
