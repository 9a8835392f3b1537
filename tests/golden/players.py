"""Who answers a scenario: the project's fakes, engines and HTTP policy, behind one function.

With `adapter.py` the only file that touches the project's API.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from atropos_agent import errors
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy import HttpPolicy, ManagedPolicy, Policy
from atropos_agent.policy import Wire as ProjectWire
from atropos_agent.policy.callable import CallablePolicy, Generated
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy, FakeReply, FakeServer, Fault
from atropos_agent.testing.fake_scores import Scoring
from atropos_agent.trajectory import FinishReason, LogprobMode
from tests.golden.scenario import Fails, Reply, Scenario, Turn
from tests.tokenizers_for_tests import tokenizer_for

NOTED = "m.content + (' (noted)' if 'xyzzy' in m.content else '')"
"""A habit that no probe of a template finds."""
TYPES: Mapping[str, Callable[[Any], Any]] = {
    "logprob_mode": LogprobMode,
    "scoring": Scoring,
    "wire": ProjectWire,
}


@cache
def renderer_for(name: str) -> tuple[Renderer, int]:
    """The renderer of a template, and the id a policy ends its turn with there."""
    tokenizer = tokenizer_for("chatml" if name == "noted" else name)
    if name == "noted":
        tokenizer.chat_template = tokenizer.chat_template.replace("m.content", NOTED)
    assert isinstance(tokenizer.eos_token_id, int)
    return Renderer(tokenizer, marks=HERMES_MARKS), tokenizer.eos_token_id


class Script:
    """The turns of a scenario, each used once, also over several attempts."""

    def __init__(self, scenario: Scenario) -> None:
        self.renderer, self.stop_id = renderer_for(scenario.template)
        self._name = scenario.name
        self._left: Iterator[Turn] = iter(scenario.turns)
        self._over = 0

    def next(self) -> FakeReply | Fails:
        """The next turn, its ids spelt out where they are not what encoding gives."""
        turn = next(self._left, None)
        if turn is None:
            self._over += 1
            return FakeReply("the script is over")
        if isinstance(turn, Fails):
            return turn
        reply = Reply(turn) if isinstance(turn, str) else turn
        finish = FinishReason(reply.finish)
        if reply.ids == "whole":
            return FakeReply(reply.text, finish)
        ids = self._spelt(reply)
        wild = reply.ids == "wild"
        text = reply.text if wild else self.renderer.decode_completion(np.array(ids, np.int32))
        return FakeReply(text, finish, token_ids=ids)

    def ids(self, reply: FakeReply) -> list[int]:
        """All ids of a reply, for players that do not encode by themselves."""
        if reply.token_ids is not None:
            return [int(token) for token in reply.token_ids]
        stop = [self.stop_id] if reply.finish_reason is FinishReason.STOP else []
        return self.renderer.encode(reply.text).tolist() + stop

    def check_used(self) -> None:
        """Every turn was asked for, and none more."""
        left = len(list(self._left))
        assert (left, self._over) == (0, 0), f"{self._name}: {left} turns left, {self._over} too few"

    def _spelt(self, reply: Reply) -> list[int]:
        encode = self.renderer.encode
        whole: list[int] = encode(reply.text).tolist()
        if reply.ids == "letters":
            return [*(token for letter in reply.text for token in encode(letter).tolist()), self.stop_id]
        if reply.ids == "broken":
            return [*whole, int(encode("\u0b95")[0]), self.stop_id]
        if reply.ids == "foreign":
            return [*whole, int(encode("<|endoftext|>")[0])]
        return [self.renderer.vocabulary_size] if reply.ids == "wild" else whole


def logprobs_of(ids: Sequence[int]) -> list[float]:
    """A function of the id alone."""
    return [-0.01 - (token % 50) / 25 for token in ids]


@asynccontextmanager
async def policy_for(scenario: Scenario) -> AsyncIterator[tuple[Policy, Renderer]]:
    """The policy that plays `scenario`, and the renderer of its template."""
    script = Script(scenario)
    if scenario.player == "http":
        async with _server(scenario, script) as fake:
            policy = HttpPolicy(fake.url, **{"max_attempts": 2, **_typed(scenario.policy)})
            yield policy, script.renderer
            await policy.aclose()
    else:
        make = {"fake": _fake, "callable": _callable, "managed": _managed}[scenario.player]
        yield make(scenario, script), script.renderer
    script.check_used()


def _server(scenario: Scenario, script: Script) -> FakeServer:
    def answer(ask: Any) -> str | FakeReply | Fault:
        turn = script.next() if ask.session else "ok"  # who has no session wants to know what we can do
        return Fault(turn.kind) if isinstance(turn, Fails) else turn

    def render(messages: Sequence[Any]) -> str:
        if scenario.shows == "injected":
            messages = [{"role": "system", "content": "injected"}, *messages]
        return script.renderer.text(messages[-1:] if scenario.shows == "last" else messages)

    options = {"wire": scenario.wire, **scenario.server}
    return LossyServer(answer, script.renderer, stop_id=script.stop_id, render=render, **_typed(options))


def _typed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: TYPES[name](value) if name in TYPES else value for name, value in options.items()}


class LossyServer(FakeServer):
    """As llama.cpp does, leaves out the probability of a token that is no whole character."""

    def _completion(self, ask: Any, script: Any, fault: Any) -> bytes:
        body = super()._completion(ask, script, fault)
        if (
            not (isinstance(script, FakeReply) and script.text.endswith("\ufffd"))
            or ask.path != "/completion"
        ):
            return body
        answer = json.loads(body)
        listed = answer["completion_probabilities"]
        answer["completion_probabilities"] = [entry for entry in listed if _is_text(bytes(entry["bytes"]))]
        return json.dumps(answer).encode()


def _is_text(piece: bytes) -> bool:
    return "\ufffd" not in piece.decode(errors="replace")


def _fake(scenario: Scenario, script: Script) -> Policy:
    def answer(_messages: object, _step: int) -> FakeReply | Exception:
        turn = script.next()
        return getattr(errors, turn.kind)("scripted") if isinstance(turn, Fails) else turn

    return FakePolicy(answer, script.renderer, stop_id=script.stop_id, **_typed(scenario.policy))


def _callable(scenario: Scenario, script: Script) -> Policy:
    async def generate(_prompt_ids: object, sampling: Any) -> Generated:
        reply = script.next()
        assert isinstance(reply, FakeReply)
        ids = script.ids(reply)[: sampling.max_tokens]
        given = logprobs_of(ids) if scenario.logprobs else None
        return Generated(
            ids, given, None if reply.finish_reason is FinishReason.STOP else reply.finish_reason
        )

    own = [script.stop_id, int(script.renderer.encode("<|endoftext|>")[0])]
    return CallablePolicy(generate, **{"stop_ids": own, **_typed(scenario.policy)})


def _managed(scenario: Scenario, script: Script) -> Policy:
    return ManagedPolicy(IdServer(script) if scenario.wire == "in-process" else NodeServer(script))


class IdServer:
    """An atroposlib-style server object: ids in, ids out."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def chat_completion(self, **_: object) -> object:
        raise NotImplementedError

    async def tokens_and_logprobs_completion(self, *, input_ids: list[int], **_: object) -> tuple[Any, ...]:
        reply = FakeReply("ok") if len(input_ids) == 2 else self.script.next()
        assert isinstance(reply, FakeReply)
        ids = self.script.ids(reply)
        return input_ids, [ids], [logprobs_of(ids)], [reply.finish_reason.value]


class NodeServer:
    """An atroposlib-style server object that keeps the tokens of each completion as a node."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.nodes: list[object] = []

    async def chat_completion(self, *, messages: Sequence[Any], **_: object) -> object:
        reply, renderer = self.script.next(), self.script.renderer
        assert isinstance(reply, FakeReply)
        shown, ids = renderer.render(messages), self.script.ids(reply)
        prompt: list[int] = shown.ids.tolist()
        node = {
            "full_text": shown.text + reply.text,
            "tokens": prompt + ids,
            "masked_tokens": [-100] * len(prompt) + ids,
            "logprobs": [1.0] * len(prompt) + logprobs_of(ids),
        }
        self.nodes = [*self.nodes, node]
        choice = SimpleNamespace(
            message=SimpleNamespace(content=reply.text), finish_reason=reply.finish_reason.value
        )
        return SimpleNamespace(choices=[choice])

    def get_state(self) -> dict[str, object]:
        return {"nodes": self.nodes}
