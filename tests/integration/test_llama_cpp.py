"""The real llama.cpp server: every sampled id arrives, and the server never outlives us."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atropos_agent.errors import ConfigError, ContextOverflow, ServerUnreachable
from atropos_agent.policy.embedded import EmbeddedPolicy, start_embedded_server
from atropos_agent.policy.http import HttpPolicy
from atropos_agent.policy.protocol import Prompt, RequestInfo, Wire
from atropos_agent.testing import TokenizerCodec
from atropos_agent.trajectory import FinishReason, LogprobMode, Provenance, SamplingParams
from tests.completions import ids_of, logprobs_of
from tests.recording_proxy import RecordingProxy
from tests.shipped_model import model_folder

pytestmark = pytest.mark.integration

CONVERSATION = (
    "<|im_start|>system\nYou are a shell agent.<|im_end|>\n"
    "<|im_start|>user\nCount the lines of a.txt.<|im_end|>\n<|im_start|>assistant\n"
)
TRAINER = """
import asyncio, sys
from pathlib import Path
from atropos_agent.policy.embedded import EmbeddedPolicy

async def main():
    policy = EmbeddedPolicy(Path(sys.argv[1]))
    await policy.probe()
    print(policy.server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def codec() -> TokenizerCodec:
    return TokenizerCodec(model_folder())


@pytest.fixture
async def server():
    running = await start_embedded_server(model_folder() / "model.gguf")
    yield running
    await running.aclose()


def new_prompt(codec: TokenizerCodec) -> Prompt:
    prompt = Prompt([{"role": "user", "content": "Count the lines of a.txt."}])
    prompt.extend(np.array(codec.encode(CONVERSATION), np.int32), CONVERSATION)
    return prompt


async def test_over_five_turns_ids_and_counts_are_the_servers_own(server, codec):
    prompt, between = new_prompt(codec), np.array(codec.encode("\n<|im_start|>assistant\n"), np.int32)
    async with RecordingProxy(server.url) as proxy, HttpPolicy(proxy.url) as policy:
        sent_before: list[int] = []
        for turn in range(1, 7):
            sampling = SamplingParams(max_tokens=40, seed=turn)
            completion = await policy.complete(prompt, sampling, request=RequestInfo("r", turn))
            exchange = proxy.exchanges[-1]
            assert ids_of(completion).tolist() == exchange.reply["tokens"]
            assert completion.usage_completion_tokens == len(ids_of(completion))
            assert completion.usage_prompt_tokens == len(prompt) == len(exchange.request["prompt"])
            assert exchange.request["prompt"][: len(sent_before)] == sent_before
            sent_before = [*exchange.request["prompt"], *exchange.reply["tokens"]]
            prompt.extend(ids_of(completion))
            prompt.extend(between)


async def test_a_hot_policy_loses_no_id_to_broken_utf8(server, codec):
    prompt = new_prompt(codec)
    async with RecordingProxy(server.url) as proxy, HttpPolicy(proxy.url, max_concurrency=16) as policy:
        completions = await asyncio.gather(
            *(
                policy.complete(prompt, SamplingParams(temperature=1.6, max_tokens=64, seed=seed))
                for seed in range(250)
            )
        )
        answered = {tuple(exchange.reply["tokens"]) for exchange in proxy.exchanges}
    assert all(tuple(ids_of(completion).tolist()) in answered for completion in completions)
    assert all(len(ids_of(completion)) == completion.usage_completion_tokens for completion in completions)
    broken = [completion for completion in completions if np.isnan(logprobs_of(completion)).any()]
    assert len(broken) >= 5
    known = np.concatenate([logprobs_of(completion) for completion in completions])
    assert 0 < np.isnan(known).mean() < 0.2


async def test_a_sampled_end_of_turn_is_the_last_id_and_not_in_the_text(server, codec):
    end = codec.token_id("<|im_end|>")
    async with HttpPolicy(server.url, max_concurrency=16) as policy:
        assert (await policy.probe()).stop_ids == (end,)
        prompt = new_prompt(codec)
        completions = await asyncio.gather(
            *(policy.complete(prompt, SamplingParams(max_tokens=200, seed=seed)) for seed in range(64))
        )
    stopped = [c for c in completions if c.finish_reason is FinishReason.STOP and ids_of(c)[-1] == end]
    assert stopped
    for completion in stopped:
        assert (ids_of(completion) == end).sum() == 1
        *_, before, last = logprobs_of(completion)
        assert not np.isnan(last) or np.isnan(before)
        assert "<|im_end|>" not in completion.text


async def test_what_the_server_can_do_is_found_out(server):
    async with HttpPolicy(server.url + "/v1/") as policy:
        found = await policy.probe()
    assert (found.wire, found.logprob_mode) == (Wire.LLAMA_CPP, LogprobMode.PROCESSED)
    assert (found.context_length, found.model) == (2048, "embedded")


async def test_a_prompt_beyond_the_context_is_an_overflow_and_a_full_context_is_noted(server):
    full = Prompt()
    full.extend(np.full(2040, 50, np.int32))
    async with HttpPolicy(server.url) as policy:
        completion = await policy.complete(full, SamplingParams(max_tokens=100, seed=1))
        assert completion.notes == ("context_full",) or completion.finish_reason is FinishReason.STOP
        full.extend(np.full(100, 50, np.int32))
        with pytest.raises(ContextOverflow, match="2140 tokens"):
            await policy.complete(full, SamplingParams(max_tokens=1))


async def test_its_chat_logprobs_give_the_ids(server, codec):
    async with HttpPolicy(server.url, wire=Wire.CHAT_LOGPROBS) as policy:
        completion = await policy.complete(new_prompt(codec), SamplingParams(max_tokens=20, seed=3))
    assert completion.provenance is Provenance.FROM_LOGPROBS
    assert len(ids_of(completion)) == len(logprobs_of(completion)) == completion.usage_completion_tokens
    assert len(ids_of(completion)) > 0


@pytest.mark.parametrize("wire", [Wire.TEXT, Wire.CHAT])
async def test_its_other_openai_shapes_give_the_text(server, codec, wire):
    async with HttpPolicy(server.url, wire=wire) as policy:
        completion = await policy.complete(new_prompt(codec), SamplingParams(max_tokens=20, seed=3))
    assert completion.token_ids is None
    assert completion.text
    assert completion.provenance is Provenance.RETOKENIZED


async def test_closing_the_policy_ends_the_server():
    policy = EmbeddedPolicy(model_folder() / "model.gguf")
    await policy.probe()
    assert policy.server is not None
    pid = policy.server.pid
    await policy.aclose()
    await policy.aclose()
    assert not is_running(pid)


async def test_a_server_that_died_is_named_with_its_status():
    async with EmbeddedPolicy(model_folder() / "model.gguf") as policy:
        await policy.probe()
        assert policy.server is not None
        os.kill(policy.server.pid, signal.SIGKILL)
        prompt = Prompt()
        prompt.extend(np.array([5], np.int32))
        with pytest.raises(ServerUnreachable, match="ended with status -9"):
            await policy.complete(prompt, SamplingParams(max_tokens=1))


def test_a_killed_trainer_leaves_no_server():
    command = [sys.executable, "-c", TRAINER, str(model_folder() / "model.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        pid = int(trainer.stdout.readline())
        assert is_running(pid)
        trainer.kill()
    for _ in range(100):
        if not is_running(pid):
            return
        time.sleep(0.05)
    pytest.fail(f"the server {pid} outlived its trainer")


async def test_a_file_that_is_no_model_is_named_with_the_servers_own_words(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nope")
    async with EmbeddedPolicy(bad) as policy:
        with pytest.raises(ServerUnreachable, match=r"bad\.gguf.*failed to load model"):
            await policy.probe()


async def test_a_missing_model_is_a_config_error(tmp_path):
    async with EmbeddedPolicy(tmp_path / "none.gguf") as policy:
        with pytest.raises(ConfigError, match=r"none\.gguf"):
            await policy.probe()


def is_running(pid: int) -> bool:
    """True for a live process; a zombie has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
