"""Recorded logprobs are those of the weights: llama.cpp against a numpy forward pass, 16 slots in flight."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from atropos_agent.policy.embedded import EmbeddedPolicy
from atropos_agent.policy.protocol import Prompt
from atropos_agent.trajectory import Completion, LogprobMode, SamplingParams
from tests.completions import ids_of, logprobs_of
from tests.gguf_f32 import write_f32
from tests.numpy_oracle import NumpyOracle
from tests.shipped_model import model_folder

pytestmark = pytest.mark.integration

COMPLETIONS = 160
MAX_TOKENS = 64
LEAST_TOKENS = 5000


async def sampled(model: Path, temperature: float = 1.0) -> list[tuple[np.ndarray, Completion]]:
    """Completions of random prompts of different lengths, sampled together."""
    vocabulary = json.loads((model_folder() / "config.json").read_text())["vocab_size"]
    prompts = [
        np.random.default_rng(seed).integers(0, vocabulary, 20 + seed % 80).astype(np.int32)
        for seed in range(COMPLETIONS)
    ]

    async with EmbeddedPolicy(model, parallel=16) as policy:

        async def one(seed: int) -> Completion:
            prompt = Prompt()
            prompt.extend(prompts[seed])
            sampling = SamplingParams(temperature, max_tokens=MAX_TOKENS, seed=seed)
            return await policy.complete(prompt, sampling)

        completions = await asyncio.gather(*(one(seed) for seed in range(COMPLETIONS)))
    return list(zip(prompts, completions, strict=True))


def differences(
    done: list[tuple[np.ndarray, Completion]], temperature: float = 1.0
) -> tuple[np.ndarray, int]:
    """|recorded - recomputed| of every position that has a logprob, and how many have none."""
    oracle = NumpyOracle(model_folder())
    off = []
    for prompt, completion in done:
        off.append(np.abs(oracle.sampled(prompt, ids_of(completion), temperature) - logprobs_of(completion)))
    joined = np.concatenate(off)
    absent = np.isnan(joined)
    return joined[~absent], int(absent.sum())


async def test_with_f32_weights_they_agree_to_rounding(tmp_path):
    exact = tmp_path / "model-f32.gguf"
    write_f32(model_folder() / "model.gguf", exact)
    off, absent = differences(await sampled(exact))
    assert len(off) >= LEAST_TOKENS
    assert absent < 0.1 * len(off)
    assert np.quantile(off, 0.99) <= 1e-4
    assert off.max() <= 1e-2


async def test_with_the_shipped_fp16_weights_they_agree_to_fp16_rounding():
    off, absent = differences(await sampled(model_folder() / "model.gguf"))
    assert len(off) >= LEAST_TOKENS
    assert absent < 0.1 * len(off)
    assert np.quantile(off, 0.99) <= 5e-3
    assert off.max() <= 5e-2


@pytest.mark.parametrize("temperature", [0.6, 1.5])
async def test_at_other_temperatures_they_are_those_of_the_distribution_sampled_from(temperature, tmp_path):
    exact = tmp_path / "model-f32.gguf"
    write_f32(model_folder() / "model.gguf", exact)
    done = await sampled(exact, temperature)
    assert {completion.logprob_mode for _, completion in done} == {LogprobMode.PROCESSED}
    off, absent = differences(done, temperature)
    assert len(off) >= LEAST_TOKENS / 2
    assert absent < 0.1 * len(off)
    assert np.quantile(off, 0.99) <= 1e-4
    assert off.max() <= 1e-2
    assert differences(done)[0].max() > 0.1  # the model's own distribution is another


async def test_the_oracle_would_notice_a_wrong_position():
    (prompt, completion), *_ = await sampled(model_folder() / "model.gguf")
    shifted = NumpyOracle(model_folder()).sampled(prompt[:-1], ids_of(completion))
    assert np.nanmax(np.abs(shifted - logprobs_of(completion))) > 5e-2
