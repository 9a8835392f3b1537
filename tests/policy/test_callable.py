import asyncio
from typing import Any

import numpy as np
import pytest

from atropos_agent.config import DebugSettings
from atropos_agent.errors import MalformedReply, ProviderError, RequestTimeout
from atropos_agent.policy import CallablePolicy, Generated, Policy
from atropos_agent.trajectory import FinishReason, LogprobProvenance, Provenance, SamplingParams
from tests.completions import ids_of, logprobs_of


def engine(generated: Generated):
    async def generate(prompt_ids, sampling):
        return generated

    return CallablePolicy(generate, stop_ids=[9])


async def test_the_engine_sees_ids_and_its_ids_come_back(prompt):
    seen = []

    async def generate(prompt_ids, sampling):
        seen.append((prompt_ids.tolist(), sampling.max_tokens))
        return Generated(np.array([4, 9]), np.array([-0.25, -0.5]))

    policy = CallablePolicy(generate, stop_ids=[9])
    assert isinstance(policy, Policy)
    completion = await policy.complete(prompt, SamplingParams(max_tokens=2))
    assert seen == [(prompt.ids.tolist(), 2)]
    assert ids_of(completion).tolist() == [4, 9]
    assert logprobs_of(completion).tolist() == [-0.25, -0.5]
    assert (completion.provenance, completion.finish_reason) == (Provenance.SAMPLED, FinishReason.STOP)


async def test_a_full_completion_without_a_stop_id_was_cut(prompt):
    completion = await engine(Generated([4, 5])).complete(prompt, SamplingParams(max_tokens=2))
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.logprobs is None
    assert completion.logprob_provenance is LogprobProvenance.ABSENT


@pytest.mark.parametrize(
    ("generated", "text"),
    [
        (Generated([4, 5], [-0.5]), "1 logprobs for 2 sampled ids"),
        (Generated([4], [float("nan")]), r"logprobs\[0\]"),
        (Generated([4], [0.5]), "0.5: not a logprob"),
        (Generated([-1], [-0.5]), "not a token id"),
        (Generated([1, 2**40]), "not a token id"),
    ],
)
async def test_what_cannot_be_is_refused(prompt, generated, text):
    with pytest.raises(MalformedReply, match=text):
        await engine(generated).complete(prompt, SamplingParams())


async def test_the_chat_timeout_holds_for_an_engine_too(prompt):
    async def generate(prompt_ids, sampling):
        await asyncio.sleep(60)
        return Generated([])

    policy = CallablePolicy(generate, debug=DebugSettings(chat_timeout_s=0.1))
    with pytest.raises(RequestTimeout, match=r"in-process step 1 .*0\.1 s"):
        await policy.complete(prompt, SamplingParams())


async def test_an_engine_that_fails_is_a_provider_error_with_its_words(prompt):
    async def out_of_memory(prompt_ids, sampling):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(ProviderError, match="out_of_memory: RuntimeError: CUDA out of memory"):
        await CallablePolicy(out_of_memory).complete(prompt, SamplingParams())


async def test_a_cancel_passes_through_an_engine(prompt):
    running = asyncio.Event()

    async def hangs(prompt_ids, sampling):
        running.set()
        await asyncio.sleep(60)
        return Generated([])

    task = asyncio.create_task(CallablePolicy(hangs).complete(prompt, SamplingParams()))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


RAGGED: list[Any] = [[4], [5, 6]]


@pytest.mark.parametrize("garbled", [None, ([4], [-0.5]), Generated(RAGGED), Generated([4], RAGGED)])
async def test_what_is_no_generated_is_a_malformed_reply(prompt, garbled):
    with pytest.raises(MalformedReply):
        await engine(garbled).complete(prompt, SamplingParams())
