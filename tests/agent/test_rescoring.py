"""Text-only servers whose model tells the logprobs of a prompt: what the record holds then."""

import asyncio

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.export import scored_group
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.record.codec import rollout_from_json, rollout_to_json
from atropos_agent.testing import FakePolicy, FakeServer
from atropos_agent.testing.fake_answers import Fault
from atropos_agent.testing.fake_policy import fake_logprobs
from atropos_agent.testing.fake_scores import Scoring
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import (
    LogprobMode,
    LogprobProvenance,
    Provenance,
    Rollout,
    RolloutGroup,
    StopReason,
    Trace,
)
from tests.agent.test_agent import CALL, RENDERER, Echo

RESCORE = AgentConfig(rescore="server")


def told(ask):
    """Two turns, whatever is asked."""
    return "done" if CALL in str(ask.payload.get("prompt")) else CALL


def wrong_when_scored(fault):
    """The script of `told`, except that the logprobs of a whole rollout come wrongly."""
    return lambda ask: fault if len(ask.prompt_ids or ()) > 3 else told(ask)


async def rollout(script=told, config=RESCORE, scoring: Scoring | None = Scoring.PROMPT_LOGPROBS):
    """One rollout by text alone, against a server that can score."""
    server = FakeServer(script, RENDERER, wire=Wire.TEXT, stop_id=None, scoring=scoring)
    async with server, HttpPolicy(server.url, wire=Wire.TEXT, max_attempts=1) as policy:
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), config, RENDERER)
        return await agent.run("do it"), server


@pytest.mark.parametrize("scoring", [*Scoring])
async def test_every_trained_token_gets_the_logprob_that_the_server_tells(scoring):
    result, _ = await rollout(scoring=scoring)
    data = result.trajectory_data
    assert (result.stop_reason, len(data.spans)) == (StopReason.FINAL_ANSWER, 2)
    assert np.array_equal(data.logprobs[data.mask], fake_logprobs(data.token_ids)[data.mask])
    assert np.isnan(data.logprobs[~data.mask]).all()
    for span in (*data.spans, *(step.span for step in result.steps)):
        assert span.provenance is Provenance.RETOKENIZED
        assert span.logprob_provenance is LogprobProvenance.RESCORED
        assert span.logprob_mode is LogprobMode.RAW
    assert result.metadata["notes"] == {}


async def test_what_the_server_said_of_the_completion_stays():
    result, _ = await rollout()
    assert all(step.completion.logprobs is None for step in result.steps)
    assert all(step.completion.logprob_provenance is LogprobProvenance.ABSENT for step in result.steps)


async def test_a_rescored_rollout_is_recorded_and_read_back():
    result, _ = await rollout()
    again = rollout_from_json(rollout_to_json(Rollout("r", "item", 0, (Trace(result, score=1.0),))))
    assert again.result.trajectory_data.spans == result.trajectory_data.spans
    assert np.array_equal(
        again.result.trajectory_data.logprobs, result.trajectory_data.logprobs, equal_nan=True
    )


@pytest.mark.parametrize(("temperature", "exported"), [(1.0, True), (0.7, False)])
async def test_rescored_logprobs_are_exported_only_where_the_model_was_sampled_as_it_is(
    temperature, exported
):
    config = AgentConfig(rescore="server", temperature=temperature)
    rollouts = [
        Rollout(f"r{i}", "item", i, (Trace((await rollout(config=config))[0], score=float(i)),))
        for i in (0, 1)
    ]
    group = RolloutGroup("item", 0, tuple(rollouts))
    assert ("inference_logprobs" in scored_group(group)) is exported
    assert "inference_logprobs" in scored_group(group, allow_raw=True)


async def test_a_sequence_is_asked_about_once_and_only_where_logprobs_lack():
    result, server = await rollout()
    ids = result.trajectory_data.tokens
    assert sum(ask.prompt_ids == ids for ask in server.asks) == 1
    sampled = FakePolicy([CALL, "done"], RENDERER, stop_id=int(RENDERER.certificate.close_ids[0]))
    exact = await AtroposAgent(sampled, ToolRegistry([Echo()]), RESCORE, RENDERER).run("do it")
    assert {span.logprob_provenance for span in exact.trajectory_data.spans} == {LogprobProvenance.SAMPLED}
    assert exact.metadata["notes"] == {}


async def test_nothing_is_asked_unless_it_is_wanted():
    result, server = await rollout(config=AgentConfig())
    assert all(len(ask.prompt_ids or ()) < len(result.trajectory_data) for ask in server.asks)
    assert np.isnan(result.trajectory_data.logprobs).all()


@pytest.mark.parametrize(
    "fault",
    [
        Fault.MISSING_LOGPROB,
        Fault.NULL_LOGPROB,
        Fault.SENTINEL_LOGPROB,
        Fault.POSITIVE_LOGPROB,
        Fault.MISSING_IDS,
        Fault.WRONG_PROMPT_USAGE,
        Fault.HTML,
        Fault.RESET,
        Fault.INTERNAL_ERROR,
        Fault.CONTEXT_OVERFLOW,
    ],
)
async def test_a_failure_of_rescoring_costs_no_tokens_and_makes_up_no_logprob(fault):
    result, _ = await rollout(wrong_when_scored(fault))
    data = result.trajectory_data
    assert (result.stop_reason, result.error) == (StopReason.FINAL_ANSWER, None)
    assert RENDERER.decode(data.token_ids[data.mask]) == f"{CALL}<|im_end|>done<|im_end|>"
    assert np.isnan(data.logprobs).all()
    assert {span.logprob_provenance for span in data.spans} == {LogprobProvenance.ABSENT}
    assert result.metadata["notes"] == {"rescore_failed": 1}


async def test_a_server_without_logprobs_of_a_prompt_is_noted():
    result, _ = await rollout(scoring=None)
    assert np.isnan(result.trajectory_data.logprobs).all()
    assert result.metadata["notes"] == {"rescore_failed": 1}


async def test_a_policy_that_cannot_score_is_noted():
    policy = FakePolicy([CALL, "done"], RENDERER, stop_id=None, wire=Wire.CHAT)
    result = await AtroposAgent(policy, ToolRegistry([Echo()]), RESCORE, RENDERER).run("do it")
    assert np.isnan(result.trajectory_data.logprobs).all()
    assert result.metadata["notes"] == {"rescore_unavailable": 1}


async def test_a_server_that_never_tells_is_waited_for_within_the_time_of_the_rollout():
    config = AgentConfig(rescore="server", max_wall_time_s=1.0)
    async with asyncio.timeout(20):
        result, _ = await rollout(wrong_when_scored(Fault.STALL), config)
    assert result.stop_reason is StopReason.FINAL_ANSWER
    assert result.metadata["notes"] == {"rescore_failed": 1}
