"""The shipped tokenizer and what llama.cpp makes of it must be the same thing."""

import httpx
import pytest
from tokenizers import Tokenizer

from atropos_agent.policy.embedded import start_embedded_server
from atropos_environments.terminal_tasks.generate import families, generate
from atropos_environments.terminal_tasks.prompts import SHORT_SYSTEM_PROMPT
from tests.test_embedded_model import MODEL

pytestmark = pytest.mark.integration

ODD = (
    "a\u0301 e\u0301\ufeff \u200b\u200d\U0001f9d1\u200d\U0001f680 \u4f60\u597d\u0000 \t\r\n\r\n  x'S 'll 12"
    '\ue000 \U0010fffd \\ "\u00df\u0130"'
)


async def test_llama_cpp_gives_the_same_ids() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tasks = [generate(family, difficulty, 1) for family in families() for difficulty in (1, 3, 5)]
    texts = [SHORT_SYSTEM_PROMPT, ODD, "<|im_start|>user\nx<|im_end|>\n<tool_response>{}</tool_response>"]
    for task in tasks:
        texts += [task.prompt, *(turn.command for turn in task.solution)]
    server = await start_embedded_server(MODEL / "model.gguf", parallel=1)
    try:
        async with httpx.AsyncClient(base_url=server.url) as client:
            for text in texts:
                body = {"content": text, "add_special": True, "parse_special": True}
                reply = (await client.post("/tokenize", json=body)).raise_for_status()
                assert reply.json()["tokens"] == tokenizer.encode(text).ids, text
    finally:
        await server.aclose()
