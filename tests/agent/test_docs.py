"""The example of docs/agent.md runs as it stands."""

import logging
import re
from pathlib import Path
from typing import Any

from atropos_agent.dialects.hermes import render_call
from atropos_agent.policy.embedded import EMBEDDED_MODEL
from atropos_agent.testing import FakeServer, TokenizerCodec

(EXAMPLE,) = re.findall(r"```python\n(.*?)```", Path("docs/agent.md").read_text(), re.DOTALL)


async def test_the_agent_of_the_docs_asks_its_tool_through_the_gate(caplog):
    space: dict[str, Any] = {}
    exec(EXAMPLE, space)
    tokenizer = EMBEDDED_MODEL / "tokenizer.json"
    codec = TokenizerCodec(tokenizer)
    cities = [["Muenchen", "Rome"], [], ["Atlantis"], []]

    def answer(ask):
        step = codec.decode(ask.prompt_ids or []).count("<|im_start|>assistant")
        calls = [render_call("weather", {"city": city}) for city in cities[max(step - 1, 0)]]
        return "\n".join(calls) or f"said {step}"

    with caplog.at_level(logging.INFO):
        async with FakeServer(answer, codec, stop_id=codec.token_id("<|im_end|>")) as server:
            answers = await space["ask"](server.url, str(tokenizer.parent))
    assert answers == ["said 2", "said 4"]
    assert [r.getMessage() for r in caplog.records if r.name == "root"] == ["step 1: rain", "step 1: sun"]
