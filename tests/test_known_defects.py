"""Defects that recorders of trajectories are known for: each check holds for ours, and is red on the defect.

Every defect is planted where it would sit, by a small stand-in that is called defective.
"""

import asyncio
import socket
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent, conversation
from atropos_agent.agent.tracker import Tracker
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.errors import ProviderError
from atropos_agent.export import scored_group
from atropos_agent.policy import HttpPolicy, ManagedPolicy, Wire, managed_nodes, transport
from atropos_agent.policy.wires import VllmFormat
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy, FakeServer, Fault
from atropos_agent.trajectory import (
    AgentResult,
    FinishReason,
    LogprobProvenance,
    Provenance,
    Rollout,
    RolloutGroup,
    Trace,
)
from tests.tokenizers_for_tests import tokenizer_for

RENDERER = Renderer(tokenizer_for("chatml"), marks=HERMES_MARKS)
STOP = int(RENDERER.certificate.close_ids[0])
TURNS = ["<tool_call>{broken \n", "<tool_call>{worse", "done"]


async def rollout(renderer=RENDERER, *, wire=Wire.IN_PROCESS, policy=None, mode="append") -> AgentResult:
    """Three turns, two of them answered with a repair."""
    stop = int(renderer.certificate.close_ids[0])
    policy = policy or FakePolicy(TURNS, renderer, stop_id=stop, wire=wire)
    agent = AtroposAgent(policy, config=AgentConfig(history=mode), tokenizer=renderer)
    result = await agent.run("do it", rollout_id="r")
    assert result.error is None
    assert result.num_steps == 3
    return result


# --- a doubled end of turn


class DefectiveRenderer(Renderer):
    """Does not see that the policy sampled the end of its turn, and writes it again."""

    def bridge(self, messages, sampled, *, finish, turn):
        return super().bridge(messages, sampled[:-1], finish=FinishReason.LENGTH, turn=turn)


async def check_one_end_a_turn(renderer: Renderer) -> None:
    (data,) = (await rollout(renderer)).sequences
    ends = np.flatnonzero(data.token_ids == STOP)
    assert (np.diff(ends) > 1).all(), "two ends of turn in a row"
    assert sum(data.mask[ends]) == 3, "an end of turn that was sampled is not trained"


async def test_no_end_of_turn_is_doubled():
    await check_one_end_a_turn(RENDERER)
    with pytest.raises(AssertionError, match="two ends of turn in a row"):
        await check_one_end_a_turn(DefectiveRenderer(tokenizer_for("chatml"), marks=HERMES_MARKS))


# --- earlier turns forgotten


class DefectiveForgetfulTracker(Tracker):
    """Keeps one growing sequence, and the mask of its last turn alone."""

    def sequences(self):
        return tuple(self._last_turn(data) for data in super().sequences())

    @staticmethod
    def _last_turn(data):
        mask = np.zeros_like(data.mask)
        mask[data.spans[-1].start : data.spans[-1].end] = True
        return replace(data, own_mask=data.own_of(mask))


async def check_every_turn_is_trained(mode="append", template="chatml") -> None:
    result = await rollout(Renderer(tokenizer_for(template), marks=HERMES_MARKS), mode=mode)
    trained = sum(int(data.mask.sum()) for data in result.sequences)
    assert trained == result.total_tokens, f"{trained} of {result.total_tokens} sampled tokens are trained"


async def test_no_earlier_turn_is_forgotten(monkeypatch):
    await check_every_turn_is_trained()
    monkeypatch.setattr(conversation, "Tracker", DefectiveForgetfulTracker)
    with pytest.raises(AssertionError, match="sampled tokens are trained"):
        await check_every_turn_is_trained()


# --- only the last node after a prefix break


class DefectiveLastNodeTracker(Tracker):
    """Trains `nodes[-1]` alone: what was sampled before a prefix break is gone."""

    def sequences(self):
        *earlier, last = super().sequences()
        return (*(replace(data, own_mask=np.zeros_like(data.own_mask)) for data in earlier), last)


async def test_no_sequence_before_a_prefix_break_is_lost(monkeypatch):
    await check_every_turn_is_trained("template", "trimming")
    monkeypatch.setattr(conversation, "Tracker", DefectiveLastNodeTracker)
    with pytest.raises(AssertionError, match="sampled tokens are trained"):
        await check_every_turn_is_trained("template", "trimming")


# --- logprob 0.0 in the fallback


class DefectiveFallbackPolicy(FakePolicy):
    """A text-only server whose missing logprobs are filled in with 0.0: probability 1."""

    async def complete(self, prompt, sampling, **named):
        completion = await super().complete(prompt, sampling, **named)
        ids = np.append(RENDERER.encode(completion.text), np.int32(STOP))
        return replace(
            completion,
            token_ids=ids,
            logprobs=np.zeros(len(ids), np.float32),
            provenance=Provenance.SAMPLED,
            logprob_provenance=LogprobProvenance.SAMPLED,
        )


async def check_a_text_only_server_gives_no_logprobs(policy: FakePolicy) -> None:
    result = await rollout(policy=policy)
    assert all(np.isnan(data.logprobs).all() for data in result.sequences), "logprobs that nobody told"
    group = RolloutGroup("item", 0, (Rollout("r", "item", 0, (Trace(result, score=1.0),)),))
    assert "inference_logprobs" not in scored_group(group, allow_raw=True)


async def test_a_missing_logprob_is_missing():
    await check_a_text_only_server_gives_no_logprobs(FakePolicy(TURNS, RENDERER, wire=Wire.TEXT))
    with pytest.raises(AssertionError, match="logprobs that nobody told"):
        await check_a_text_only_server_gives_no_logprobs(
            DefectiveFallbackPolicy(TURNS, RENDERER, wire=Wire.TEXT)
        )


# --- placeholder tokens taken for real


class FakeDummySession:
    """A managed session over an endpoint without ids: tokens 0 to 127, each with logprob -0.5."""

    def __init__(self):
        self.nodes = []

    async def chat_completion(self, **asked):
        tokens = list(range(128))
        masked = [-100] * 64 + tokens[64:]
        values = [1.0] * 64 + [-0.5] * 64
        metadata = {"dummy_tokens": True}
        self.nodes.append(
            SimpleNamespace(
                full_text="hi", tokens=tokens, masked_tokens=masked, logprobs=values, metadata=metadata
            )
        )
        message = SimpleNamespace(content="hi", reasoning=None)
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])

    def get_state(self):
        return {"nodes": list(self.nodes)}


async def check_placeholders_are_no_tokens() -> None:
    agent = AtroposAgent(ManagedPolicy(FakeDummySession()), tokenizer=RENDERER)
    result = await agent.run("do it")
    assert not result.sequences, "placeholder tokens are recorded as sampled"
    assert result.error_type == ProviderError.__name__
    assert "placeholder tokens" in (result.error or "")


async def test_placeholder_tokens_are_refused(monkeypatch):
    await check_placeholders_are_no_tokens()
    monkeypatch.setattr(managed_nodes, "_refuse_placeholder", lambda *defect: None)
    with pytest.raises(AssertionError, match="placeholder tokens are recorded"):
        await check_placeholders_are_no_tokens()


# --- short logprob lists padded


READ = VllmFormat.read


def defective_padding_read(self, payload, asked):
    """Fills a short list of logprobs up to the number of ids."""
    (choice,) = payload["choices"]
    values = choice["logprobs"]["token_logprobs"]
    padded = values + [0.0] * (len(choice["token_ids"]) - len(values))
    logprobs = {**choice["logprobs"], "token_logprobs": padded}
    return READ(self, {**payload, "choices": [{**choice, "logprobs": logprobs}]}, asked)


async def check_no_logprob_is_made_up() -> None:
    script = lambda ask: Fault.MISSING_LOGPROB if ask.session else "ok"  # noqa: E731
    async with FakeServer(script, RENDERER, wire=Wire.VLLM, stop_id=STOP) as server:
        policy = HttpPolicy(server.url)
        result = await AtroposAgent(policy, tokenizer=RENDERER).run("do it", rollout_id="r")
        await policy.aclose()
    recorded = [value for data in result.sequences for value in data.logprobs[data.mask]]
    assert not recorded, f"one logprob too few, and yet every token has one: {recorded}"
    assert result.error_type == "MalformedReply"


async def test_a_short_list_of_logprobs_is_never_padded(monkeypatch):
    await check_no_logprob_is_made_up()
    monkeypatch.setattr(VllmFormat, "read", defective_padding_read)
    with pytest.raises(AssertionError, match="yet every token has one"):
        await check_no_logprob_is_made_up()


# --- a dead server waited on for ever


async def check_a_dead_server_ends_the_rollout() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    policy = HttpPolicy(url)
    asking = asyncio.create_task(AtroposAgent(policy, tokenizer=RENDERER).run("do it"))
    done, _ = await asyncio.wait([asking], timeout=transport.UNANSWERED_LIMIT_S + 1.5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await policy.aclose()
    assert done, "a dead server is still waited on"
    assert asking.result().error_type == "ServerUnreachable"
    assert "Connection refused" in asking.result().error


@pytest.mark.slow
async def test_a_dead_server_is_not_waited_on_for_ever(monkeypatch):
    await check_a_dead_server_ends_the_rollout()
    monkeypatch.setattr(transport.Transport, "_gives_up", lambda *defect: False)
    with pytest.raises(AssertionError, match="still waited on"):
        await check_a_dead_server_ends_the_rollout()
