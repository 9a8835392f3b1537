"""What a probe concludes, and what it must not conclude."""

import asyncio

import pytest

from atropos_agent.errors import (
    ConfigError,
    MalformedReply,
    ProviderError,
    RequestTimeout,
    ServerRefused,
)
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.policy.http import PROBE_LIMIT_S
from atropos_agent.policy.protocol import RequestInfo
from atropos_agent.testing import FakeServer, Fault
from atropos_agent.trajectory import SamplingParams

SAMPLING = SamplingParams(max_tokens=20)


@pytest.mark.parametrize("wire", [Wire.VLLM, Wire.VLLM_GENERATE, Wire.SGLANG, Wire.LLAMA_CPP])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.BUSY, ServerRefused),
        (Fault.INTERNAL_ERROR, ServerRefused),
        (Fault.UNAUTHORIZED, ServerRefused),
        (Fault.CUT_BODY, MalformedReply),
    ],
)
async def test_a_passing_fault_never_lowers_what_the_server_is_taken_for(wire, fault, error):
    faulty = True
    async with (
        FakeServer(lambda ask: fault if faulty else "hi", wire=wire) as server,
        HttpPolicy(server.url, max_attempts=2) as policy,
    ):
        with pytest.raises(error):
            await policy.probe()
        faulty = False
        assert (await policy.probe()).wire is wire


@pytest.mark.parametrize("fault", [Fault.BAD_REQUEST, Fault.HTML, Fault.MISSING_IDS])
async def test_an_answer_about_the_shape_leads_to_the_next_one(fault):
    async with (
        FakeServer(lambda ask: fault if ask.path == "/v1/completions" else "hi", wire=Wire.VLLM) as server,
        HttpPolicy(server.url, max_attempts=2) as policy,
    ):
        assert (await policy.probe()).wire not in (Wire.VLLM, Wire.TEXT)


async def test_a_server_that_never_answers_is_named_in_time():
    async def hold(reader, writer):
        while await reader.read(4096):
            pass
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, HttpPolicy(f"http://127.0.0.1:{port}", request_timeout_s=0.2) as policy:
        with pytest.raises(RequestTimeout, match=f"127.0.0.1:{port} within 0.2 s"):
            await asyncio.wait_for(policy.probe(), PROBE_LIMIT_S)
        await policy.aclose()


@pytest.mark.parametrize("password", ["hunter2", "hun@ter2"])
@pytest.mark.parametrize("fault", [None, Fault.CUT_BODY, Fault.BUSY, Fault.HTML])
async def test_a_password_in_the_url_reaches_no_text(caplog, prompt, password, fault):
    caplog.set_level("DEBUG", "atropos_agent")
    async with FakeServer(lambda ask: fault if ask.session else "hi") as server:
        host = server.url.removeprefix("http://")
        if fault is None:
            await server.aclose()
        async with HttpPolicy(f"http://bob:{password}@{host}", max_attempts=2) as policy:
            with pytest.raises(ProviderError) as failure:
                await policy.complete(prompt, SAMPLING, request=RequestInfo("r"))
    assert f"http://{host}" in str(failure.value)
    assert "ter2" not in str(failure.value) + caplog.text


def test_a_password_in_a_bad_url_is_not_shown():
    with pytest.raises(ConfigError, match="'host' is not an HTTP address") as failure:
        HttpPolicy("ftp://bob:hunter2@host")
    assert "hunter2" not in str(failure.value)
