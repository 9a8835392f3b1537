"""A scripted inference server on 127.0.0.1: real HTTP, real ids, faults on demand, over 10,000 answers/s.

In a test: `async with FakeServer(script) as server: HttpPolicy(server.url)`. As a separate process:
`atropos-agent fake-server SCRIPT`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import orjson

from atropos_agent.policy.protocol import Wire
from atropos_agent.testing import fake_answers as answers
from atropos_agent.testing.codecs import ByteCodec, Codec
from atropos_agent.testing.fake_answers import Fault
from atropos_agent.testing.fake_policy import FakeReply
from atropos_agent.testing.fake_scores import Scoring, scored
from atropos_agent.trajectory import LogprobMode, Message

ServerScript: TypeAlias = "Callable[[FakeAsk], str | FakeReply | Fault]"
Render: TypeAlias = "Callable[[Sequence[Message]], str]"

MODEL = "fake-model"
OWNERS = {Wire.VLLM: "vllm", Wire.VLLM_GENERATE: "vllm", Wire.SGLANG: "sglang"}
CONTEXT_LENGTH = 32768
LARGEST_CACHE = 4096
_SESSION = re.compile(rb"(?i)\r\nx-session-id: *([^\r]*)")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_MAX_TOKENS = re.compile(rb'"(?:max_tokens|n_predict|max_completion_tokens|max_new_tokens)": ?(-?\d+)')
_ID_PROMPT = re.compile(rb'"(?:prompt|input_ids|token_ids)": ?\[')


class FakeAsk:
    """One request: `turn` counts from 1 within its `session` (the X-Session-ID header)."""

    def __init__(self, path: str, body: bytes, head: bytes, session: str, turn: int) -> None:
        self.path = path
        self.body = body
        self.head = head
        self.session = session
        self.turn = turn

    @cached_property
    def payload(self) -> dict[str, object]:
        """The decoded body."""
        decoded = orjson.loads(self.body)
        return decoded if isinstance(decoded, dict) else {}

    @property
    def prompt_ids(self) -> list[int] | None:
        """The prompt ids; None for other prompts."""
        prompts = [self.payload.get(name) for name in ("prompt", "input_ids", "token_ids")]
        return next((prompt for prompt in prompts if isinstance(prompt, list)), None)

    @property
    def messages(self) -> list[Message]:
        """The messages of a chat request."""
        found = self.payload.get("messages")
        return found if isinstance(found, list) else []

    @cached_property
    def id_count(self) -> int | None:
        """The number of prompt ids, counted without decoding them; None for other prompts."""
        start = _ID_PROMPT.search(self.body)
        if start is None:
            return None
        end = self.body.index(b"]", start.end())
        return self.body.count(b",", start.end(), end) + 1 if end > start.end() else 0

    @property
    def max_tokens(self) -> int | None:
        """The bound on sampled tokens; None for no bound."""
        # it stands after a long prompt: search the end of the body first
        found = _MAX_TOKENS.search(self.body, max(0, len(self.body) - 4096)) or _MAX_TOKENS.search(self.body)
        bound = int(found[1]) if found else -1
        return bound if bound >= 0 else None


class FakeServer:
    """Answers like a server whose best format is `wire`; `script` maps each request to a text or a fault.

    `codec` and `stop_id` make the ids. `render` turns chat messages into the prompt text; it is needed if the
    chat format returns prompt ids. With `logprob_mode` PROCESSED the temperature changes the logprobs of the
    alternatives. `scoring` is the format of prompt logprobs, None for none. `asks` keeps every completion
    request if `record` is set. `aborted` counts requests whose client disconnected before the answer.
    """

    def __init__(
        self,
        script: ServerScript,
        codec: Codec | None = None,
        *,
        wire: Wire = Wire.LLAMA_CPP,
        stop_id: int | None = None,
        render: Render | None = None,
        model: str = MODEL,
        context_length: int = CONTEXT_LENGTH,
        delay_s: float = 0.0,
        retry_after_s: float | None = None,
        logprob_mode: LogprobMode = LogprobMode.RAW,
        scoring: Scoring | None = None,
        record: bool = True,
    ) -> None:
        self.script = script
        self.codec: Codec = codec or ByteCodec()
        self.stop_id: int | None = ByteCodec.end_of_turn if codec is None and stop_id is None else stop_id
        self.wire = wire
        self.model = model
        self.context_length = context_length
        self.scoring = scoring
        self.delay_s = delay_s
        self.retry_after_s = retry_after_s
        self.asks: list[FakeAsk] = []
        self.requests: int = 0
        self.connections: int = 0
        self.aborted: int = 0
        self._processed = logprob_mode is LogprobMode.PROCESSED
        self._record = record
        self._render: Render = render or _plain_render
        self._turns: dict[str, int] = {}
        self._cache: dict[tuple[str, str, int | None], tuple[bytes, bytes]] = {}
        self._open: set[_Connection] = set()
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> FakeServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port, backlog=4096)

    async def aclose(self) -> None:
        """Stop listening and drop every connection."""
        if self._listener is not None:
            self._listener.close()
            for connection in tuple(self._open):
                connection.drop()
            await self._listener.wait_closed()
            self._listener = None

    @property
    def url(self) -> str:
        """The base URL, without `/v1`."""
        if self._listener is None:
            raise RuntimeError("the FakeServer is not started")
        return f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    def connected(self, connection: _Connection) -> None:
        """Count and register a connection."""
        self.connections += 1
        self._open.add(connection)

    def disconnected(self, connection: _Connection, *, waiting: bool) -> None:
        """Forget a connection. `waiting`: the client left before its answer."""
        self._open.discard(connection)
        self.aborted += waiting

    def handle(self, path: str, head: bytes, body: bytes, connection: _Connection) -> None:
        """Answer one request, at once or after its delay."""
        fixed = self._fixed(path, body)
        if fixed is not None:
            connection.answer(200, orjson.dumps(fixed))
            return
        if not self._knows(path):
            connection.answer(404, b'{"error":{"message":"File Not Found","type":"not_found_error"}}')
            return
        self.requests += 1
        found = _SESSION.search(head)
        session = found[1].decode() if found else ""
        turn = self._turns[session] = self._turns.get(session, 0) + 1
        ask = FakeAsk(path, body, head, session, turn)
        if self._record:
            self.asks.append(ask)
        script = self.script(ask)
        delay_s = self.delay_s + (script.delay_s if isinstance(script, FakeReply) else 0.0)
        if delay_s:
            connection.waits(
                asyncio.get_running_loop().call_later(delay_s, self._reply, ask, script, connection)
            )
        else:
            self._reply(ask, script, connection)

    def _reply(self, ask: FakeAsk, script: str | FakeReply | Fault, connection: _Connection) -> None:
        fault = script if isinstance(script, Fault) else None
        if fault is Fault.STALL:
            connection.waits(None)
        elif fault is Fault.RESET:
            connection.drop()
        elif fault is not None and fault in answers.REFUSALS:
            status, body = answers.REFUSALS[fault]
            connection.answer(status, orjson.dumps(body), self.retry_after_s if status == 429 else None)
        elif fault is Fault.CONTEXT_OVERFLOW:
            shape = answers.OVERFLOWS.get(self.wire, answers.OVERFLOWS[Wire.VLLM])
            connection.answer(400, orjson.dumps(shape))
        elif fault is Fault.HTML:
            connection.answer(200, b"<html><body>It works!</body></html>")
        else:
            body_bytes = self._completion(ask, script, fault)
            connection.answer(200, body_bytes, cut=fault in (Fault.CUT_BODY, Fault.STALL_MID_BODY))
            if fault is Fault.CUT_BODY:
                connection.close()
            elif fault is Fault.STALL_MID_BODY:
                connection.waits(None)

    def _completion(self, ask: FakeAsk, script: str | FakeReply | Fault, fault: Fault | None) -> bytes:
        told = None if self.scoring is None else scored(ask.payload, self.scoring, self.model, fault)
        if told is not None:
            return answers.encoded(told, fault)[0]
        reply = script if isinstance(script, FakeReply) else FakeReply("ok" if fault else str(script))
        prompt_ids = self._rendered_ids(ask) if "chat" in ask.path else None
        count = len(prompt_ids) if prompt_ids is not None else ask.id_count
        if count is None:
            count = len(self.codec.encode(str(ask.payload.get("prompt"))))
        key = (ask.path, reply.text, ask.max_tokens)
        # the same script is often played thousands of times: then only the prompt count is new
        cacheable = isinstance(script, str) and not fault and prompt_ids is None and not self._processed
        parts = self._cache.get(key) if cacheable else None
        if parts is None:
            parts = answers.encoded(self._body(ask, reply, prompt_ids, fault), fault)
            if cacheable and len(self._cache) < LARGEST_CACHE:
                self._cache[key] = parts
        head, tail = parts
        return b"%b%d%b" % (head, count + (fault is Fault.WRONG_PROMPT_USAGE), tail) if tail else head

    def _body(
        self, ask: FakeAsk, reply: FakeReply, prompt_ids: list[int] | None, fault: Fault | None
    ) -> answers.Object:
        done = answers.sampled(reply, self.codec, self.stop_id, ask.max_tokens, fault)
        sharpness = self._sharpness(ask) if self._processed else 1.0
        if ask.path == "/completion":
            after = self._processed and ask.payload.get("post_sampling_probs") is True
            return answers.native(done, self.model, fault, sharpness=sharpness, probabilities=after)
        if ask.path == "/generate":
            return answers.sglang(done, fault, sharpness=sharpness)
        if ask.path == "/inference/v1/generate":
            return answers.generate(done, self.model, fault, sharpness=sharpness)
        if ask.path == "/v1/completions":
            return answers.classic(done, self.model, fault, ids=self.wire is Wire.VLLM, sharpness=sharpness)
        with_ids = self.wire in (Wire.VLLM, Wire.CHAT_IDS) and b'"return_token_ids":' in ask.body
        speaks = self.wire if b'"logprobs":' in ask.body and self.wire is not Wire.TEXT else Wire.CHAT
        shown_ids = prompt_ids if with_ids else None
        return answers.chat(done, self.model, fault, wire=speaks, prompt_ids=shown_ids, sharpness=sharpness)

    def _sharpness(self, ask: FakeAsk) -> float:
        """The factor on the logprobs of the alternatives; infinite if truncation leaves one token. SGLang's
        logprobs do not include truncation."""
        asked = ask.payload.get("sampling_params", ask.payload)
        assert isinstance(asked, dict)
        if asked["top_p"] < 0.5 and self.wire is not Wire.SGLANG:
            return math.inf
        return 1 / float(asked["temperature"])

    def _rendered_ids(self, ask: FakeAsk) -> list[int]:
        return [int(i) for i in self.codec.encode(self._render(ask.messages))]

    def _knows(self, path: str) -> bool:
        return path in self._paths() or (path == "/generate" and self.scoring is Scoring.GENERATE)

    def _paths(self) -> tuple[str, ...]:
        chat, text, native = "/v1/chat/completions", "/v1/completions", "/completion"
        if self.wire is Wire.LLAMA_CPP:
            return (native, text, chat)
        if self.wire is Wire.SGLANG:
            return ("/generate", chat)
        if self.wire is Wire.VLLM_GENERATE:
            return ("/inference/v1/generate", chat)
        return (text, chat) if self.wire in (Wire.VLLM, Wire.TEXT) else (chat,)

    def _fixed(self, path: str, body: bytes) -> answers.Object | None:
        llama = self.wire is Wire.LLAMA_CPP
        if path == "/v1/models":
            entry: answers.Object = {"id": self.model, "object": "model"}
            if llama:
                entry |= {"owned_by": "llamacpp", "meta": {"n_ctx": self.context_length}}
            elif self.wire in OWNERS:
                entry |= {"owned_by": OWNERS[self.wire], "max_model_len": self.context_length}
            return {"object": "list", "data": [entry]}
        if path == "/health":
            return {"status": "ok"}
        if path == "/props" and llama:
            end = "" if self.stop_id is None else self.codec.decode(np.array([self.stop_id], np.int32))
            return {"default_generation_settings": {"n_ctx": self.context_length}, "eos_token": end}
        if path == "/tokenize" and (llama or self.wire in OWNERS):
            ids = [
                int(i) for i in self.codec.encode(str(orjson.loads(body)["content" if llama else "prompt"]))
            ]
            return {"tokens": ids} if llama else {"tokens": ids, "count": len(ids), "max_model_len": 0}
        return None


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and Content-Length; one request at a time."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.disconnected(self, waiting=self._waiting)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            found = _LENGTH.search(head)
            total = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < total:
                return
            body = bytes(self._buffer[end + 4 : total])
            del self._buffer[:total]
            self._server.handle(head.split(b" ", 2)[1].decode(), head, body, self)

    def waits(self, timer: asyncio.TimerHandle | None) -> None:
        """An answer follows when `timer` fires; None: never."""
        self._timer, self._waiting = timer, True

    def drop(self) -> None:
        """Abort the connection without an answer."""
        if self._transport is not None:
            self._transport.abort()

    def answer(
        self, status: int, body: bytes, retry_after_s: float | None = None, *, cut: bool = False
    ) -> None:
        """Send an answer; with `cut`, only the first half of its body."""
        self._waiting, self._timer = False, None
        if self._transport is None or self._transport.is_closing():
            return
        wait = b"" if retry_after_s is None else b"Retry-After: %b\r\n" % f"{retry_after_s:g}".encode()
        kind = b"text/html" if body.startswith(b"<") else b"application/json"
        head = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n"
        start = head % (status, kind, wait, len(body))
        self._transport.write(start + (body[: len(body) // 2] if cut else body))

    def close(self) -> None:
        """Close the connection after the pending data was sent."""
        if self._transport is not None:
            self._transport.close()


def _plain_render(messages: Sequence[Message]) -> str:
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages)
