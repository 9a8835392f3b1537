import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from urllib.parse import unquote

import numpy as np
import pytest
from aiohttp import web

from atropos_agent.config import DebugSettings
from atropos_agent.errors import ConfigError, ModelNotFound, RequestTimeout, ServerRefused, ServerUnreachable
from atropos_agent.policy.http import HttpPolicy
from atropos_agent.policy.protocol import Policy, Prompt, RequestInfo, Wire
from atropos_agent.testing import ByteCodec, FakeReply, FakeServer, Fault
from atropos_agent.trajectory import FinishReason, LogprobMode, Provenance, SamplingParams
from tests.completions import ids_of, logprobs_of

SAMPLING = SamplingParams(max_tokens=50)
STEP = RequestInfo("rollout-7", 3)
PROBES = 3
"""One token; then the likeliest tokens at two temperatures, for the logprob mode."""
CHAT = {"choices": [{"message": {"content": "squeezed"}, "finish_reason": "stop"}]}
SERVER_WIRES = (
    Wire.LLAMA_CPP,
    Wire.SGLANG,
    Wire.VLLM,
    Wire.CHAT_IDS,
    Wire.CHAT_LOGPROBS,
    Wire.TEXT,
    Wire.CHAT,
)


def answers(text: str):
    return lambda ask: text


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@pytest.mark.parametrize("wire", SERVER_WIRES)
async def test_the_best_wire_is_found_by_the_answers(wire):
    async with FakeServer(answers("ok"), wire=wire) as server, HttpPolicy(server.url + "/v1") as policy:
        assert isinstance(policy, Policy)
        capabilities = await policy.probe()
    assert capabilities.wire is wire
    assert capabilities.model == "fake-model"
    assert capabilities.logprob_mode is (LogprobMode.RAW if wire.gives_ids else LogprobMode.UNKNOWN)


@pytest.mark.parametrize("wire", [Wire.LLAMA_CPP, Wire.SGLANG, Wire.VLLM, Wire.VLLM_GENERATE, Wire.CHAT_IDS])
async def test_ids_come_back_as_the_server_sampled_them(wire, prompt):
    async with FakeServer(answers("hé!"), wire=wire) as server, HttpPolicy(server.url) as policy:
        completion = await policy.complete(prompt, SAMPLING, request=STEP)
    assert ids_of(completion).tolist() == [*"hé!".encode(), ByteCodec.end_of_turn]
    assert ids_of(completion).dtype == np.int32
    assert logprobs_of(completion).dtype == np.float32
    assert completion.provenance is Provenance.SAMPLED
    assert completion.usage_completion_tokens == 5
    assert completion.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("wire", [Wire.LLAMA_CPP, Wire.VLLM])
async def test_the_prompt_goes_out_as_its_ids_and_neutral_sampling_is_asked_for(wire, prompt):
    async with FakeServer(answers("ok"), wire=wire) as server, HttpPolicy(server.url) as policy:
        await policy.complete(prompt, SamplingParams(max_tokens=9, seed=5, temperature=0.5), request=STEP)
        sent = server.asks[-1]
    assert sent.prompt_ids == prompt.ids.tolist()
    assert sent.session == "rollout-7"
    asked = sent.payload
    assert (asked["temperature"], asked["top_p"], asked["min_p"], asked["seed"]) == (0.5, 1.0, 0.0, 5)
    assert asked["presence_penalty"] == asked["frequency_penalty"] == 0.0
    assert asked.get("n_predict", asked.get("max_tokens")) == 9
    assert not asked.get("stop")


async def test_llama_cpp_is_told_its_every_default_that_is_not_neutral(prompt):
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url) as policy:
        await policy.complete(prompt, SAMPLING)
        asked = server.asks[-1].payload
    neutral = {"top_k": 0, "typical_p": 1.0, "top_n_sigma": -1.0, "xtc_probability": 0.0, "mirostat": 0}
    neutral |= {"dry_multiplier": 0.0, "repeat_penalty": 1.0, "dynatemp_range": 0.0, "logit_bias": []}
    assert {name: asked[name] for name in neutral} == neutral
    assert asked["return_tokens"] is True
    assert asked["post_sampling_probs"] is False


async def test_chat_logprob_bytes_are_the_text(prompt):
    async with (
        FakeServer(answers("hé!"), wire=Wire.CHAT_LOGPROBS) as server,
        HttpPolicy(server.url) as policy,
    ):
        completion = await policy.complete(prompt, SAMPLING)
    assert completion.token_ids is None
    assert completion.token_bytes == (b"h", b"\xc3", b"\xa9", b"!", b"")
    assert completion.provenance is Provenance.FROM_LOGPROBS


async def test_processed_logprobs_are_told_from_raw_ones():
    script = answers("ok")
    async with (
        FakeServer(script, wire=Wire.VLLM, logprob_mode=LogprobMode.PROCESSED) as server,
        HttpPolicy(server.url) as policy,
    ):
        assert (await policy.probe()).logprob_mode is LogprobMode.PROCESSED


async def test_an_unknown_model_is_named_with_those_served():
    async with (
        FakeServer(answers("ok"), wire=Wire.VLLM, model="served") as server,
        HttpPolicy(server.url, model="mine") as policy,
    ):
        with pytest.raises(ModelNotFound, match=r"'mine'.*serves served"):
            await policy.probe()


async def test_the_server_is_probed_once_for_many_first_requests(prompt):
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url) as policy:
        await asyncio.gather(*(policy.complete(prompt, SAMPLING) for _ in range(20)))
        assert server.requests == 20 + PROBES


async def test_256_requests_slower_than_the_connect_timeout_all_arrive(prompt):
    slow = FakeReply("ok", delay_s=1.2)
    async with (
        FakeServer(lambda ask: slow if ask.session else "ok") as server,
        HttpPolicy(server.url, connect_timeout_s=0.5) as policy,
    ):
        requests = (policy.complete(prompt, SAMPLING, request=RequestInfo(f"r{i}", 1)) for i in range(256))
        completions = await asyncio.gather(*requests)
        assert [completion.text for completion in completions] == ["ok"] * 256
        assert {completion.timings.attempts for completion in completions} == {1}


async def test_waiting_for_a_place_counts_as_queued_and_against_no_timeout(prompt):
    slow = FakeReply("ok", delay_s=0.3)
    async with (
        FakeServer(lambda ask: slow if ask.session else "ok") as server,
        HttpPolicy(server.url, max_concurrency=2, connect_timeout_s=0.2, request_timeout_s=0.6) as policy,
    ):
        completions = await asyncio.gather(
            *(policy.complete(prompt, SAMPLING, request=STEP) for _ in range(8))
        )
    assert max(completion.timings.queued_s for completion in completions) > 0.6
    assert max(completion.timings.request_s for completion in completions) < 0.6


async def test_a_dead_server_is_named_in_under_five_seconds(prompt):
    started = time.monotonic()
    url = f"http://127.0.0.1:{free_port()}"
    async with HttpPolicy(url) as policy:
        with pytest.raises(ServerUnreachable, match=f"{url}.*Connection refused.*3 attempts"):
            await policy.complete(prompt, SAMPLING)
    assert time.monotonic() - started < 5


async def test_a_server_that_accepts_no_connection_is_named_in_under_five_seconds():
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        started = time.monotonic()
        async with HttpPolicy(f"http://127.0.0.1:{port}") as policy:
            with pytest.raises(ServerUnreachable, match="no connection within 3 s"):
                await policy.probe()
        assert time.monotonic() - started < 5


async def test_a_passing_fault_is_retried_and_counted(prompt):
    faults = [Fault.INTERNAL_ERROR, Fault.RESET]
    async with (
        FakeServer(lambda ask: faults.pop() if ask.session and faults else "ok") as server,
        HttpPolicy(server.url) as policy,
    ):
        completion = await policy.complete(prompt, SAMPLING, request=STEP)
    assert completion.text == "ok"
    assert completion.timings.attempts == 3


async def test_retry_after_is_waited_for(prompt):
    faults = [Fault.BUSY]
    async with (
        FakeServer(lambda ask: faults.pop() if ask.session and faults else "ok", retry_after_s=1.5) as server,
        HttpPolicy(server.url) as policy,
    ):
        completion = await policy.complete(prompt, SAMPLING, request=STEP)
    assert completion.timings.attempts == 2
    assert completion.timings.request_s >= 1.5


async def test_a_connection_that_died_while_idle_costs_no_request(prompt):
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url) as policy:
        await policy.complete(prompt, SAMPLING)
        port = int(server.url.rpartition(":")[2])
        await server.aclose()
        await server.start(port)
        assert (await policy.complete(prompt, SAMPLING)).text == "ok"


async def test_a_compressed_answer_is_read(prompt):
    async def compressed(request: web.Request) -> web.Response:
        body = {"data": [{"id": "m"}]} if request.method == "GET" else CHAT
        answer = web.json_response(body)
        answer.enable_compression(web.ContentCoding.gzip)
        return answer

    application = web.Application()
    application.router.add_route("*", "/v1/{path:.*}", compressed)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with HttpPolicy(f"http://127.0.0.1:{runner.addresses[0][1]}", wire=Wire.CHAT) as policy:
        assert (await policy.complete(prompt, SAMPLING)).text == "squeezed"
    await runner.cleanup()


async def test_a_request_timeout_says_what_was_waited_for(prompt):
    async with (
        FakeServer(lambda ask: Fault.STALL if ask.session else "ok") as server,
        HttpPolicy(server.url, request_timeout_s=0.2) as policy,
    ):
        with pytest.raises(RequestTimeout, match=r"no answer from http.*/completion within 0.2 s"):
            await policy.complete(prompt, SAMPLING, request=STEP)


async def test_cancelling_passes_frees_the_place_and_tells_the_server(prompt):
    arrived = asyncio.Event()

    def script(ask):
        if ask.session:
            arrived.set()
        return Fault.STALL if ask.session else "ok"

    async with FakeServer(script) as server, HttpPolicy(server.url, max_concurrency=1) as policy:
        task = asyncio.create_task(policy.complete(prompt, SAMPLING, request=STEP))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await policy.complete(prompt, SAMPLING)).text == "ok"
        assert server.aborted == 1


async def test_no_api_key_reaches_an_error_or_a_log(prompt, caplog):
    key = "sk-very-secret-key"
    debug = DebugSettings(debug_request=True, debug_request_full=True, debug_response=True)
    async with (
        FakeServer(lambda ask: Fault.UNAUTHORIZED if ask.session else f"echo {key}") as server,
        HttpPolicy(server.url, api_key=key, debug=debug) as policy,
    ):
        caplog.set_level(logging.DEBUG)
        await policy.complete(prompt, SAMPLING)
        with pytest.raises(ServerRefused) as caught:
            await policy.complete(prompt, SAMPLING, request=STEP)
        assert key.encode() in server.asks[-1].head
    assert key not in str(caught.value)
    assert "echo ***" in caplog.text
    assert key not in caplog.text


async def test_a_heartbeat_tells_of_a_wait_without_ending_it(prompt, caplog):
    async with (
        FakeServer(lambda ask: FakeReply("ok", delay_s=0.5) if ask.session else "ok") as server,
        HttpPolicy(server.url, debug=DebugSettings(wait_every_s=0.1)) as policy,
    ):
        caplog.set_level(logging.INFO)
        assert (await policy.complete(prompt, SAMPLING, request=STEP)).text == "ok"
        beats = [record for record in caplog.records if "still waiting" in record.message]
        assert len(beats) >= 3
        assert "/completion step 3 of rollout-7, waiting for the first byte (0s)" in beats[0].message
        await asyncio.sleep(0.25)
        assert len([record for record in caplog.records if "still waiting" in record.message]) == len(beats)


async def test_a_saved_request_can_be_sent_again(prompt, tmp_path):
    debug = DebugSettings(debug_request=True, request_save_dir=tmp_path / "requests")
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url, debug=debug) as policy:
        await policy.complete(prompt, SAMPLING, request=STEP)
        (saved,) = (tmp_path / "requests").glob("atropos_agent_request_step3_*.json")
        assert saved.read_bytes() == server.asks[-1].body
    assert json.loads(saved.read_bytes())["model"] == "fake-model"


@pytest.mark.integration
async def test_the_curl_command_beside_it_sends_the_same_request_without_holding_the_key(prompt, tmp_path):
    key = "sk-very-secret-key"
    debug = DebugSettings(debug_request=True, request_save_dir=tmp_path)
    async with (
        FakeServer(answers("ok")) as server,
        HttpPolicy(server.url, api_key=key, debug=debug) as policy,
    ):
        await policy.complete(prompt, SAMPLING, request=STEP)
        (script,) = tmp_path.glob("*.curl.sh")
        environment = {"PATH": os.environ["PATH"], "ATROPOS_SERVER_API_KEY": key}
        curl = await asyncio.create_subprocess_exec(
            "sh", script, env=environment, cwd="/", stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await curl.communicate()
        asked, again = server.asks[-2:]
    assert again.body == asked.body
    assert (again.path, again.session) == (asked.path, asked.session)
    assert f"Bearer {key}".encode() in again.head
    assert json.loads(answer)["content"] == "ok"
    assert key not in script.read_text()


async def test_the_request_summary_names_step_and_parameters(prompt, caplog):
    caplog.set_level(logging.INFO)
    async with (
        FakeServer(answers("ok"), wire=Wire.CHAT) as server,
        HttpPolicy(server.url, debug=DebugSettings(debug_request=True)) as policy,
    ):
        await policy.complete(prompt, SAMPLING, request=STEP)
    assert "step 3: keys=['frequency_penalty', 'max_tokens', 'messages'" in caplog.text
    assert "n=1 max_tokens=50 temperature=1.0 num_messages=1" in caplog.text


async def test_bypass_uses_plain_chat_and_its_own_timeout(prompt):
    debug = DebugSettings(bypass_managed_server=True, direct_request_timeout_s=0.2)
    async with (
        FakeServer(lambda ask: Fault.STALL if ask.session else "ok") as server,
        HttpPolicy(server.url, debug=debug) as policy,
    ):
        assert (await policy.complete(prompt, SAMPLING)).provenance is Provenance.RETOKENIZED
        assert server.asks[-1].path == "/v1/chat/completions"
        with pytest.raises(RequestTimeout, match=r"0\.2 s"):
            await policy.complete(prompt, SAMPLING, request=STEP)


async def test_the_environment_is_read_when_the_policy_is_built(monkeypatch, prompt):
    monkeypatch.setenv("ATROPOS_AGENT_CHAT_TIMEOUT_S", "0.2")
    async with (
        FakeServer(lambda ask: Fault.STALL if ask.session else "ok") as server,
        HttpPolicy(server.url) as policy,
    ):
        monkeypatch.delenv("ATROPOS_AGENT_CHAT_TIMEOUT_S")
        with pytest.raises(RequestTimeout):
            await policy.complete(prompt, SAMPLING, request=STEP)


async def test_proxies_of_the_environment_are_not_used(monkeypatch, prompt):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url) as policy:
        assert (await policy.complete(prompt, SAMPLING)).text == "ok"


def test_a_second_event_loop_is_refused_in_words_until_the_policy_is_closed():
    policy = HttpPolicy(f"http://127.0.0.1:{free_port()}", max_attempts=1)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        with pytest.raises(ServerUnreachable):
            first.run(policy.probe())
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run(policy.probe())
        first.run(policy.aclose())
        with pytest.raises(ServerUnreachable):
            second.run(policy.probe())
        second.run(policy.aclose())


def test_a_closed_policy_serves_the_next_event_loop_under_contention(prompt):
    port = free_port()
    policy = HttpPolicy(f"http://127.0.0.1:{port}", max_concurrency=1)

    async def use() -> int:
        server = FakeServer(answers("ok"))
        await server.start(port)
        async with policy:
            done = await asyncio.gather(*(policy.complete(prompt, SAMPLING) for _ in range(4)))
        await server.aclose()
        return len(done)

    assert [asyncio.run(use()), asyncio.run(use())] == [4, 4]


@pytest.mark.parametrize("name", ["größe/1#0.0", "two\r\nlines: 1", "item 7"])
async def test_any_rollout_id_fits_into_the_session_header(name, prompt):
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url) as policy:
        await policy.complete(prompt, SAMPLING, request=RequestInfo(name, 1))
        assert unquote(server.asks[-1].session) == name


@pytest.mark.parametrize("url", ["ftp://host", "http://", "", "http:///v1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="base_url"):
        HttpPolicy(url)


def test_a_key_and_a_user_in_the_url_are_refused_together():
    with pytest.raises(ConfigError, match="not both"):
        HttpPolicy("http://me:pass-word@127.0.0.1:9", api_key="sk-secret")


async def test_a_growing_prompt_is_sent_whole_each_time():
    prompt = Prompt()
    async with FakeServer(answers("ok")) as server, HttpPolicy(server.url) as policy:
        for turn in range(3):
            prompt.extend(np.array([turn, 300 + turn], np.int32))
            await policy.complete(prompt, SAMPLING, request=STEP)
        assert [ask.prompt_ids for ask in server.asks[PROBES:]] == [
            [0, 300],
            [0, 300, 1, 301],
            [0, 300, 1, 301, 2, 302],
        ]


async def test_a_failed_probe_is_raised_and_not_logged_as_a_step(caplog):
    async with HttpPolicy(f"http://127.0.0.1:{free_port()}", max_attempts=1) as policy:
        with pytest.raises(ServerUnreachable, match="cannot reach"):
            await policy.probe()
    assert "cannot reach" not in caplog.text
