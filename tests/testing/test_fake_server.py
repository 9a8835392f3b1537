import asyncio

import httpx
import pytest

from atropos_agent.policy.protocol import Wire
from atropos_agent.testing import ByteCodec, FakeReply, FakeServer, Fault, TokenizerCodec
from atropos_agent.trajectory import FinishReason
from tests.shipped_model import model_folder


async def post(server: FakeServer, path: str, body: dict, session: str = "") -> dict:
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"X-Session-ID": session} if session else {}
        answer = await client.post(server.url + path, json=body, headers=headers)
        return answer.json()


async def test_turns_are_counted_per_session():
    async with FakeServer(lambda ask: "call" if ask.turn % 3 else "final") as server:
        body = {"prompt": [1], "n_predict": 100}
        texts = [(await post(server, "/completion", body, s))["content"] for s in ("a", "a", "b", "a", "b")]
    assert texts == ["call", "call", "call", "final", "call"]


@pytest.mark.parametrize("prompt", [[], [7], [1, 22, 333], list(range(5000))])
async def test_prompt_ids_are_counted_without_decoding_them(prompt):
    async with FakeServer(lambda ask: "x") as server:
        answer = await post(server, "/completion", {"prompt": prompt, "n_predict": 5})
        assert answer["tokens_evaluated"] == len(prompt)
        assert server.asks[0].prompt_ids == prompt


async def test_ids_logprobs_and_text_belong_together_and_end_at_max_tokens():
    async with FakeServer(lambda ask: "hello", wire=Wire.VLLM) as server:
        whole = await post(server, "/v1/completions", {"prompt": [1], "max_tokens": 50})
        cut = await post(server, "/v1/completions", {"prompt": [1], "max_tokens": 2})
    assert whole["choices"][0]["token_ids"] == [*b"hello", ByteCodec.end_of_turn]
    assert len(whole["choices"][0]["logprobs"]["token_logprobs"]) == 6
    assert whole["usage"] == {"completion_tokens": 6, "prompt_tokens": 1}
    assert (cut["choices"][0]["text"], cut["choices"][0]["finish_reason"]) == ("he", "length")


async def test_max_tokens_inside_a_message_is_not_the_bound():
    async with FakeServer(lambda ask: "hello", wire=Wire.CHAT) as server:
        messages = [{"role": "user", "content": 'say "max_tokens": 1'}]
        answer = await post(server, "/v1/chat/completions", {"messages": messages})
    assert answer["choices"][0]["message"]["content"] == "hello"


async def test_a_scripted_reply_can_be_cut_and_choose_its_ids():
    reply = FakeReply("text", FinishReason.LENGTH, token_ids=[1, 2], logprobs=[-0.5, -0.25])
    async with FakeServer(lambda ask: reply) as server:
        answer = await post(server, "/completion", {"prompt": [1], "n_predict": 9})
    assert (answer["tokens"], answer["stop_type"]) == ([1, 2], "limit")


async def test_a_client_that_leaves_is_counted_as_aborted():
    async with FakeServer(lambda ask: Fault.STALL) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await post(server, "/completion", {"prompt": [1]})
        await asyncio.sleep(0.05)
        assert server.aborted == 1


async def test_a_real_tokenizer_makes_real_ids():
    codec = TokenizerCodec(model_folder())
    stop = codec.token_id("<|im_end|>")
    async with FakeServer(lambda ask: "<think>ls</think>", codec, stop_id=stop) as server:
        answer = await post(server, "/completion", {"prompt": [1], "n_predict": 99})
    assert answer["tokens"] == [*codec.encode("<think>ls</think>"), stop]
    assert codec.decode(answer["tokens"][:-1]) == "<think>ls</think>"
