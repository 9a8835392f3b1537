import asyncio

import numpy as np
import pytest

from atropos_agent.policy.protocol import Policy, Prompt, RequestInfo, Wire
from atropos_agent.testing import ByteCodec, FakePolicy, FakeReply
from atropos_agent.trajectory import FinishReason, Provenance, SamplingParams

SAMPLING = SamplingParams()


async def test_is_a_policy():
    assert isinstance(FakePolicy(["hi"]), Policy)


async def test_plays_one_script_per_step_with_ids_and_a_sampled_stop():
    policy = FakePolicy(["first", "second"])
    completion = await policy.complete(Prompt(), SAMPLING, request=RequestInfo(step_number=2))
    assert completion.text == "second"
    assert completion.token_ids is not None
    assert completion.token_ids.tolist() == [*b"second", ByteCodec.end_of_turn]
    assert completion.provenance is Provenance.SAMPLED
    assert completion.usage_completion_tokens == 7


async def test_a_function_sees_messages_and_step():
    policy = FakePolicy(lambda messages, step: f"{messages[-1]['content']}{step}")
    prompt = Prompt([{"role": "user", "content": "n="}])
    assert (await policy.complete(prompt, SAMPLING, request=RequestInfo(step_number=3))).text == "n=3"


async def test_max_tokens_cuts_ids_and_text():
    completion = await FakePolicy(["abcdef"]).complete(Prompt(), SamplingParams(max_tokens=3))
    assert completion.text == "abc"
    assert completion.finish_reason is FinishReason.LENGTH


async def test_raises_what_the_script_says_and_names_a_missing_step():
    policy = FakePolicy([ValueError("no")])
    with pytest.raises(ValueError, match="no"):
        await policy.complete(Prompt(), SAMPLING)
    with pytest.raises(IndexError, match="step 2"):
        await policy.complete(Prompt(), SAMPLING, request=RequestInfo(step_number=2))


async def test_requests_keep_a_copy_of_the_prompt():
    policy = FakePolicy(lambda messages, step: "x")
    prompt = Prompt()
    prompt.extend(np.array([1, 2], np.int32), "ab")
    await policy.complete(prompt, SAMPLING)
    prompt.extend(np.array([3], np.int32))
    assert policy.requests[0].prompt_ids.tolist() == [1, 2]


async def test_a_text_wire_gives_no_ids():
    completion = await FakePolicy(["x"], wire=Wire.CHAT).complete(Prompt(), SAMPLING)
    assert completion.token_ids is None
    assert completion.provenance is Provenance.RETOKENIZED


async def test_a_delay_can_be_cancelled():
    task = asyncio.create_task(FakePolicy([FakeReply("x", delay_s=60)]).complete(Prompt(), SAMPLING))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
