"""SGLang's and vLLM's token-in, token-out shapes: what is asked for, and what their logprobs are of."""

import numpy as np
import orjson
import pytest

from atropos_agent.errors import MalformedReply
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.policy.wires import Asked, LlamaCppFormat, SglangFormat, VllmGenerateFormat
from atropos_agent.testing import FakeServer
from atropos_agent.trajectory import FinishReason, LogprobMode, SamplingParams
from tests.completions import ids_of, logprobs_of

SAMPLING = SamplingParams(max_tokens=50, seed=7)
TRUNCATED = SamplingParams(top_p=0.9)
SGLANG = {
    "text": "hi",
    "output_ids": [5, 6],
    "meta_info": {
        "finish_reason": {"type": "stop", "matched": 6},
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "weight_version": "step-40",
        "output_token_logprobs": [[-0.5, 5, None], [-0.25, 6, None]],
    },
}


def test_sglang_is_asked_for_ids_without_anything_that_changes_the_distribution(prompt):
    asked = orjson.loads(SglangFormat("m").body(prompt, SAMPLING))
    assert asked["input_ids"] == prompt.ids.tolist()
    assert asked["return_logprob"] is True
    sampling = asked["sampling_params"]
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: sampling[name] for name in neutral} == neutral
    assert (sampling["max_new_tokens"], sampling["sampling_seed"]) == (50, 7)
    assert "sampling_seed" not in SglangFormat("m", seeded=False).body(prompt, SAMPLING).decode()


def test_vllm_generate_is_asked_for_ids_without_anything_that_changes_the_distribution(prompt):
    asked = orjson.loads(VllmGenerateFormat("m").body(prompt, SAMPLING))
    assert asked["token_ids"] == prompt.ids.tolist()
    sampling = asked["sampling_params"]
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: sampling[name] for name in neutral} == neutral
    assert (sampling["max_tokens"], sampling["seed"], sampling["logprobs"]) == (50, 7, 0)
    assert b"max_tokens" not in VllmGenerateFormat("m").body(prompt, SamplingParams())


def test_sglang_tells_ids_logprobs_and_the_version_of_the_weights():
    completion = SglangFormat("m", LogprobMode.PROCESSED).read(SGLANG, Asked(9))
    assert ids_of(completion).tolist() == [5, 6]
    assert logprobs_of(completion).tolist() == [-0.5, -0.25]
    assert (completion.text, completion.finish_reason) == ("hi", FinishReason.STOP)
    assert completion.weight_version == "step-40"


def test_an_aborted_generation_is_no_end_of_turn():
    meta = {**SGLANG["meta_info"], "finish_reason": {"type": "abort", "message": "killed"}}
    assert SglangFormat("m").read({**SGLANG, "meta_info": meta}, Asked(9)).finish_reason is FinishReason.OTHER


def test_ids_and_logprob_entries_that_disagree_are_refused():
    with pytest.raises(MalformedReply, match="output_ids differ"):
        SglangFormat("m").read({**SGLANG, "output_ids": [5, 7]}, Asked(9))


@pytest.mark.parametrize(
    ("found", "shows", "sampling", "mode"),
    [
        (LogprobMode.PROCESSED, False, SamplingParams(temperature=0.5), LogprobMode.PROCESSED),
        (LogprobMode.PROCESSED, False, TRUNCATED, LogprobMode.UNKNOWN),
        (LogprobMode.PROCESSED, True, TRUNCATED, LogprobMode.PROCESSED),
        (LogprobMode.RAW, False, TRUNCATED, LogprobMode.RAW),
    ],
)
def test_logprobs_that_know_no_truncation_are_of_no_known_distribution_under_it(found, shows, sampling, mode):
    completion = SglangFormat("m", found, shows).read(SGLANG, Asked(9, sampling))
    assert completion.logprob_mode is mode


@pytest.mark.parametrize("wire", [Wire.SGLANG, Wire.VLLM, Wire.VLLM_GENERATE, Wire.LLAMA_CPP])
@pytest.mark.parametrize("mode", [LogprobMode.RAW, LogprobMode.PROCESSED])
async def test_the_logprob_mode_is_found_out_by_asking(wire, mode, prompt):
    async with (
        FakeServer(lambda ask: "ok", wire=wire, logprob_mode=mode) as server,
        HttpPolicy(server.url) as policy,
    ):
        assert (await policy.probe()).logprob_mode is mode
        truncated = await policy.complete(prompt, TRUNCATED)
    blind = mode is LogprobMode.PROCESSED and wire is Wire.SGLANG
    assert truncated.logprob_mode is (LogprobMode.UNKNOWN if blind else mode)


def test_llama_cpp_is_asked_for_probabilities_after_sampling_where_they_are_others(prompt):
    neutral = orjson.loads(LlamaCppFormat("m").body(prompt, SAMPLING))
    sharp = orjson.loads(LlamaCppFormat("m").body(prompt, SamplingParams(temperature=0.7)))
    assert (neutral["post_sampling_probs"], sharp["post_sampling_probs"]) == (False, True)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.5, None, "0.5"])
def test_a_probability_that_cannot_be_is_refused(probability):
    entry = {"id": 5, "prob": probability}
    answer = {"content": "x", "tokens": [5], "completion_probabilities": [entry], "stop_type": "eos"}
    with pytest.raises(MalformedReply, match="probability"):
        LlamaCppFormat("m").read(answer, Asked())


def test_a_probability_is_recorded_as_its_logarithm():
    entry = {"id": 5, "prob": 0.25}
    answer = {"content": "x", "tokens": [5], "completion_probabilities": [entry], "stop_type": "eos"}
    completion = LlamaCppFormat("m").read(answer, Asked())
    assert np.isclose(logprobs_of(completion), np.log(0.25)).all()
