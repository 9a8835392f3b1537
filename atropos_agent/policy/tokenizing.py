"""The tokenize endpoint of a server."""

from __future__ import annotations

import orjson

from atropos_agent.policy.failures import SHAPE_STATUSES
from atropos_agent.policy.probing import decoded
from atropos_agent.policy.protocol import Capabilities, Wire
from atropos_agent.policy.transport import Transport
from atropos_agent.policy.wires import common
from atropos_agent.trajectory import TokenIds

PATH = "/tokenize"


async def tokenized(transport: Transport, served: Capabilities, text: str) -> TokenIds | None:
    """The server's ids of `text`, int32[n], special tokens recognised and none added; None if it has no such
    endpoint (llama.cpp, vLLM and SGLang have it). Raises ProviderError."""
    if served.wire is Wire.LLAMA_CPP:
        asked: dict[str, object] = {"content": text, "add_special": False, "parse_special": True}
    else:
        asked = {"model": served.model, "prompt": text, "add_special_tokens": False}
    reply = await transport.send("POST", PATH, orjson.dumps(asked))
    if reply.status in SHAPE_STATUSES:
        return None
    payload = decoded(reply, transport.origin + PATH, model=served.model)
    return common.token_ids(payload.get("tokens"), "tokens")
