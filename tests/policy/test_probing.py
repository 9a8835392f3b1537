import asyncio

import pytest

from atropos_agent.errors import (
    MalformedReply,
    ProviderError,
    RequestTimeout,
    ServerRefused,
    ServerUnreachable,
)
from atropos_agent.policy import CallablePolicy, HttpPolicy, ManagedPolicy, Prompt, Wire
from atropos_agent.testing import FakeServer, Fault
from atropos_agent.trajectory import SamplingParams


@pytest.mark.parametrize("wire", [Wire.VLLM, Wire.LLAMA_CPP])
@pytest.mark.parametrize(("fault", "error"), [(Fault.BUSY, ServerRefused), (Fault.CUT_BODY, MalformedReply)])
async def test_a_passing_fault_never_lowers_what_the_server_is_taken_for(wire, fault, error):
    answers = iter([fault] * 2)
    async with FakeServer(lambda ask: next(answers, "hi"), wire=wire) as server:
        policy = HttpPolicy(server.url, max_attempts=2)
        with pytest.raises(error):
            await policy.probe()
        assert (await policy.probe()).wire is wire
        await policy.aclose()


async def test_a_server_that_never_answers_is_named_in_time():
    async def hold(reader, writer):
        while await reader.read(4096):
            pass
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    policy = HttpPolicy(f"http://127.0.0.1:{port}", request_timeout_s=0.5)
    with pytest.raises((RequestTimeout, ServerUnreachable), match=str(port)):
        await asyncio.wait_for(policy.probe(), 10)
    await policy.aclose()
    silent.close()
    await silent.wait_closed()


async def test_a_password_in_the_url_reaches_no_text(caplog):
    caplog.set_level("DEBUG")
    policy = HttpPolicy("http://bob:hunter2@127.0.0.1:9", max_attempts=2)
    with pytest.raises(ProviderError) as failure:
        await policy.probe()
    await policy.aclose()
    assert "127.0.0.1:9" in str(failure.value)
    assert "hunter2" not in str(failure.value) + caplog.text


async def test_an_engine_that_fails_is_a_provider_error_and_a_cancel_passes():
    async def out_of_memory(ids, sampling):
        raise RuntimeError("CUDA out of memory")

    async def hangs(ids, sampling):
        await asyncio.sleep(60)

    with pytest.raises(ProviderError, match="out_of_memory: RuntimeError: CUDA out of memory"):
        await CallablePolicy(out_of_memory, model="mine").complete(Prompt(), SamplingParams())
    task = asyncio.create_task(CallablePolicy(hangs, model="mine").complete(Prompt(), SamplingParams()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("logprobs", [[None], [[None, -1.0]], -0.5])
async def test_what_a_server_object_garbles_is_a_malformed_reply(logprobs):
    class Garbled:
        model_name = "m"

        async def tokens_and_logprobs_completion(self, input_ids, prompt, **_):
            return input_ids, [[5, 6]], [logprobs], ["stop"]

    with pytest.raises(ProviderError):
        await ManagedPolicy(Garbled())._by_ids(prompt_of(1, 2), SamplingParams(), None)


def prompt_of(*ids: int) -> Prompt:
    import numpy as np

    prompt = Prompt()
    prompt.extend(np.array(ids, np.int32))
    return prompt
