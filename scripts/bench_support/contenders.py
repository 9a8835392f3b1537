"""The measured clients: our agent, and three clients without an agent that record the same tokens."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import aiohttp
import numpy as np
import orjson
from tokenizers import Tokenizer

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig, DebugSettings
from atropos_agent.policy import HttpPolicy
from atropos_agent.policy.protocol import SESSION_HEADER, Wire
from atropos_agent.policy.transport import Transport
from atropos_agent.renderer import Renderer
from atropos_agent.toolset import ToolContext, ToolRegistry, ToolSchema
from atropos_agent.trajectory import Json, SequenceData, StopReason, ToolResult
from scripts.bench_support.workload import MAX_TOKENS, SYSTEM, TASK, Script

JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The tokens of one rollout as a contender keeps them: ids, mask, logprobs, of one length."""

    ids: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]

    @classmethod
    def of(cls, data: SequenceData) -> Self:
        """From a training sequence of ours."""
        return cls(data.token_ids, data.mask, data.logprobs)  # type: ignore[arg-type]

    def same_as(self, other: Record) -> bool:
        """True where both recorded the same tokens, sampled the same ones, with the same logprobs."""
        mine, theirs = np.asarray(self.mask, bool), np.asarray(other.mask, bool)
        return (
            np.array_equal(np.asarray(self.ids), np.asarray(other.ids))
            and np.array_equal(mine, theirs)
            and np.allclose(np.asarray(self.logprobs)[mine], np.asarray(other.logprobs)[theirs], atol=1e-6)
        )


class Contender(Protocol):
    """One client. `rollout` plays one whole rollout under a session name of its own."""

    async def rollout(self, session: str) -> Record:
        """Play to the end and return the record."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Echo:
    """An in-process tool that answers at once with the same text."""

    schema = ToolSchema.of("echo", "Give the next page.", {"text": {"type": "string"}}, ("text",))

    def __init__(self, output: str) -> None:
        self._output = output

    def is_available(self) -> tuple[bool, str]:
        """Always."""
        return True, ""

    async def execute(self, arguments: Mapping[str, Json], context: ToolContext) -> ToolResult:
        """The text."""
        return ToolResult(success=True, output=self._output)


class Ours:
    """AtroposAgent over an HttpPolicy, with the real renderer, registry, parser and tracker."""

    def __init__(self, url: str, script: Script, renderer: Renderer) -> None:
        # More connections than rollouts in flight, so that the policy's own limit is not measured. Debug
        # settings are the defaults: output that the environment asks for would be measured.
        self._policy = HttpPolicy(url, wire=script.workload.wire, max_concurrency=512, debug=DebugSettings())
        tools = ToolRegistry([Echo(script.output)], max_observation_chars=2 * len(script.output) + 1000)
        steps = script.workload.requests + 1
        config = AgentConfig(max_steps=steps, max_tokens=MAX_TOKENS, system_prompt=SYSTEM)
        self._agent = AtroposAgent(self._policy, tools, config, renderer)

    async def rollout(self, session: str) -> Record:
        """One `run`."""
        result = await self._agent.run(TASK, rollout_id=session)
        if result.stop_reason is not StopReason.FINAL_ANSWER or result.trajectory_data is None:
            raise RuntimeError(f"the rollout ended with {result.stop_reason}: {result.error}")
        return Record.of(result.trajectory_data)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._policy.aclose()


class FloorGen:
    """Bare aiohttp with Python lists: all ids of the prompt are encoded to JSON again for every request."""

    def __init__(
        self,
        url: str,
        script: Script,
        tokenizer: Tokenizer,
        *,
        dumps: Callable[[object], str | bytes],
        loads: Callable[[bytes], Mapping[str, object]],
    ) -> None:
        self._url, self._script, self._tokenizer = url + script.path, script, tokenizer
        self._dumps, self._loads = dumps, loads
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def rollout(self, session: str) -> Record:
        """The requests of one rollout."""
        script = self._script
        ids: list[int] = script.opening.tolist()
        mask, logprobs = [0] * len(ids), [1.0] * len(ids)
        headers = {**JSON_TYPE, SESSION_HEADER: session}
        for turn in range(script.workload.requests):
            if turn:
                observed = self._tokenizer.encode(script.after_call, add_special_tokens=False).ids
                ids += observed
                mask += [0] * len(observed)
                logprobs += [1.0] * len(observed)
            body = self._dumps({"prompt": ids, **script.fields})
            async with self._session.post(self._url, data=body, headers=headers) as response:
                sampled, given = _tokens(self._loads(await response.read()), script.workload.wire)
            ids += sampled
            mask += [1] * len(sampled)
            logprobs += given
        return Record(ids, mask, logprobs)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()


class FloorOwn:
    """Our transport without an agent: ids kept as encoded bytes too, and only new text is encoded."""

    def __init__(self, url: str, script: Script, tokenizer: Tokenizer) -> None:
        self._script, self._tokenizer = script, tokenizer
        self._transport = Transport(url, JSON_TYPE, connect_timeout_s=3.0, max_attempts=1)
        self._fields = orjson.dumps(script.fields)[1:]  # without "{": a body begins with the prompt

    async def rollout(self, session: str) -> Record:
        """The requests of one rollout."""
        script = self._script
        ids, mask, logprobs = array("i", script.opening.tolist()), array("b"), array("f")
        mask.extend([0] * len(ids))
        logprobs.extend([1.0] * len(ids))
        encoded = bytearray(orjson.dumps(ids.tolist())[1:-1])
        headers = {SESSION_HEADER: session}

        def extend(new: list[int], sampled: int, given: Sequence[float]) -> None:
            nonlocal encoded
            ids.extend(new)
            mask.extend([sampled] * len(new))
            logprobs.extend(given)
            encoded += b"," + orjson.dumps(new)[1:-1]

        for turn in range(script.workload.requests):
            if turn:
                observed = self._tokenizer.encode(script.after_call, add_special_tokens=False).ids
                extend(observed, 0, [1.0] * len(observed))
            body = b"".join((b'{"prompt":[', encoded, b"],", self._fields))
            reply = await self._transport.send("POST", script.path, body, headers)
            sampled, given = _tokens(orjson.loads(reply.body), script.workload.wire)
            extend(sampled, 1, given)
        return Record(ids, mask, logprobs)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def contenders(url: str, script: Script, renderer: Renderer, tokenizer: Tokenizer) -> dict[str, Contender]:
    """All of them by name, ours first."""
    return {
        "ours": Ours(url, script, renderer),
        "floor_gen": FloorGen(url, script, tokenizer, dumps=json.dumps, loads=json.loads),
        "floor_gen_orjson": FloorGen(url, script, tokenizer, dumps=orjson.dumps, loads=orjson.loads),
        "floor_own": FloorOwn(url, script, tokenizer),
    }


def _tokens(payload: Mapping[str, object], wire: Wire) -> tuple[list[int], list[float]]:
    """The sampled ids and their logprobs, unchecked."""
    if wire is Wire.LLAMA_CPP:
        return payload["tokens"], [entry["logprob"] for entry in payload["completion_probabilities"]]  # type: ignore[return-value, attr-defined]
    choice = payload["choices"][0]  # type: ignore[index]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]
