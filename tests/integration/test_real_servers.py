"""Twenty conversations with a real server over each of its wires: the record against the wire itself.

llama.cpp by default; `--real-server` and `--server-python` choose another (see the Makefile).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy.protocol import Wire
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import FinishReason, Provenance, SequenceData
from tests.recording_proxy import Exchange
from tests.shipped_model import model_folder
from tests.token_truth.real_servers import WIRES, serving
from tests.token_truth.scripted_turns import CONVERSATIONS
from tests.token_truth.talk import Recorded, Talk, record

pytestmark = pytest.mark.integration


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recorded" in metafunc.fixturenames:
        kind = metafunc.config.getoption("--real-server")
        metafunc.parametrize("recorded", WIRES[kind], indirect=True, ids=lambda wire: f"{kind}-{wire}")


@pytest.fixture(scope="module")
def all_recorded(pytestconfig) -> dict[Wire, Recorded]:
    return asyncio.run(
        record_all(pytestconfig.getoption("--real-server"), pytestconfig.getoption("--server-python"))
    )


async def record_all(kind, python) -> dict[Wire, Recorded]:
    renderer = Renderer.load(model_folder(), marks=HERMES_MARKS)
    async with serving(kind, python) as url:
        return {wire: await record(url, wire, renderer) for wire in WIRES[kind]}


@pytest.fixture
def recorded(request, all_recorded) -> Recorded:
    return all_recorded[request.param]


def shown_ids(wire: Wire, exchange: Exchange) -> list[int] | None:
    """The prompt ids as they went by wire; None where it holds none."""
    match wire:
        case Wire.LLAMA_CPP | Wire.VLLM:
            return exchange.request["prompt"]
        case Wire.VLLM_GENERATE:
            return exchange.request["token_ids"]
        case Wire.CHAT_IDS:
            return exchange.reply["prompt_token_ids"]
        case _:
            return None


def reported_ids(wire: Wire, exchange: Exchange) -> list[int] | None:
    """The sampled ids as the server reported them; None where it reports none."""
    if wire is Wire.LLAMA_CPP:
        return exchange.reply["tokens"]
    return None if wire is Wire.TEXT else exchange.reply["choices"][0]["token_ids"]


def turns(talk: Talk) -> Iterator[tuple[SequenceData, list[int], Exchange]]:
    """Of every turn: its sequence, its sampled ids in the record, and its exchange."""
    spans = [(data, span) for data in talk.sequences for span in data.spans]
    assert [span.step_number for _, span in spans] == list(range(1, len(talk.exchanges) + 1))
    for (data, span), exchange in zip(spans, talk.exchanges, strict=True):
        yield data, data.token_ids[span.start : span.end].tolist(), exchange


def test_every_scripted_turn_was_answered(recorded):
    assert len(recorded.talks) == len(CONVERSATIONS) == 20
    for talk in recorded.talks:
        assert len(talk.exchanges) == len(talk.completions) == len(talk.conversation.turns) + 1
    finished = {completion.finish_reason for talk in recorded.talks for completion in talk.completions}
    assert finished == {FinishReason.STOP, FinishReason.LENGTH}


def test_recorded_ids_are_those_reported(recorded):
    for talk in recorded.talks:
        for _, ids, exchange in turns(talk):
            reported = reported_ids(recorded.wire, exchange)
            if reported is not None:
                assert ids == reported
                continue
            said = exchange.reply["choices"][0]
            close = recorded.renderer.certificate.close_ids if said["finish_reason"] == "stop" else ()
            assert ids == [*recorded.renderer.encode(said["text"]).tolist(), *close]


def test_each_prompt_begins_with_the_one_before_and_what_was_sampled(recorded):
    for talk in recorded.talks:
        before: list[int] = []
        of: SequenceData | None = None
        for number, (data, ids, exchange) in enumerate(turns(talk), 1):
            span = next(span for span in data.spans if span.step_number == number)
            prompt = data.token_ids[: span.start].tolist()
            goes_on = prompt[: len(before)] == before
            assert goes_on == (data is of or of is None)
            shown = shown_ids(recorded.wire, exchange)
            if shown is None:
                assert exchange.request["prompt"] == recorded.renderer.decode(np.array(prompt, np.int32))
            else:
                assert shown == prompt
            before, of = prompt + ids, data


def test_only_a_server_that_renders_the_prompts_begins_another_sequence(recorded):
    if recorded.wire is not Wire.CHAT_IDS:
        assert {len(talk.sequences) for talk in recorded.talks} == {1}


def test_the_mask_counts_exactly_the_sampled_tokens(recorded):
    for talk in recorded.talks:
        for data in talk.sequences:
            assert data.mask.sum() == sum(span.end - span.start for span in data.spans)
        reported = [reported_ids(recorded.wire, exchange) for exchange in talk.exchanges]
        if None not in reported:
            assert sum(data.mask.sum() for data in talk.sequences) == sum(map(len, reported))


def test_no_end_of_turn_is_doubled_or_missing(recorded):
    (close,) = recorded.renderer.certificate.close_ids
    for talk in recorded.talks:
        for data in talk.sequences:
            ids, last = data.token_ids.tolist(), data.spans[-1].step_number
            messages = len(talk.conversation.opening) + 2 * last - 1
            assert ids.count(close) == messages - (ids[-1] != close)
            assert (close, close) not in pairwise(ids)


def test_provenance_and_logprobs_are_those_of_the_wire(recorded):
    exact = recorded.wire is not Wire.TEXT
    for talk in recorded.talks:
        for data in talk.sequences:
            expected = Provenance.SAMPLED if exact else Provenance.RETOKENIZED
            assert {span.provenance for span in data.spans} == {expected}
            absent = np.isnan(data.logprobs[data.mask])
            assert absent.mean() < 0.2 if exact else absent.all()
            assert np.isnan(data.logprobs[~data.mask]).all()
