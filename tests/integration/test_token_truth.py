"""The record against the wire: a real llama.cpp server, with a proxy between it and us."""

import asyncio
from collections import defaultdict
from itertools import pairwise

import pytest

from atropos_agent.config import AgentConfig, SandboxConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy import EmbeddedPolicy, HttpPolicy
from atropos_agent.policy.embedded import start_embedded_server
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import Provenance, Rollout
from atropos_environments.terminal_tasks import TerminalTasks, TerminalTasksConfig
from tests.recording_proxy import Exchange, RecordingProxy

pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")

GROUPS, TURNS = 8, 5


Recorded = tuple[list[Rollout], dict[str, list[Exchange]], Renderer]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Rollouts of hard tasks, and for each the exchanges that the proxy saw."""
    return asyncio.run(record())


async def record() -> Recorded:
    policy = EmbeddedPolicy()
    renderer = Renderer.load(policy.tokenizer_path, marks=HERMES_MARKS)
    server = await start_embedded_server(policy.tokenizer_path / "model.gguf")
    try:
        async with RecordingProxy(server.url) as proxy:
            seen = HttpPolicy(proxy.url)
            async with TerminalTasks(
                seen,
                renderer,
                config=TerminalTasksConfig(prompt="short", group_size=8),
                agent=AgentConfig(max_steps=8, max_tokens=120, max_repairs=8),
                sandbox=SandboxConfig(slots=16),
            ) as env:
                groups = [await env.collect_group(await env.get_next_item()) for _ in range(GROUPS)]
            await seen.aclose()
            sessions = defaultdict(list)
            for exchange in proxy.exchanges:
                if exchange.session:
                    sessions[exchange.session].append(exchange)
    finally:
        await server.aclose()
    return [rollout for group in groups for rollout in group.rollouts], sessions, renderer


def stops(renderer: Renderer) -> set[int]:
    return set(renderer.stop_ids)


def test_recorded_ids_are_those_the_server_reported_in_order(recorded):
    rollouts, sessions, _ = recorded
    for rollout in rollouts:
        data = rollout.result.trajectory_data
        reported = [token for exchange in sessions[rollout.id] for token in exchange.reply["tokens"]]
        assert data.token_ids[data.mask].tolist() == reported
        assert {span.provenance for span in data.spans} == {Provenance.SAMPLED}
    assert sum(len(sessions[rollout.id]) >= TURNS for rollout in rollouts) >= 5


def test_each_prompt_starts_with_all_ids_of_the_turn_before(recorded):
    rollouts, sessions, _ = recorded
    for rollout in rollouts:
        before: list[int] = []
        for exchange in sessions[rollout.id]:
            prompt = exchange.request["prompt"]
            assert prompt[: len(before)] == before
            before = prompt + exchange.reply["tokens"]
        assert rollout.result.trajectory_data.token_ids.tolist() == before


def test_usage_agrees_with_the_ids_in_both_directions(recorded):
    rollouts, sessions, _ = recorded
    for rollout in rollouts:
        for exchange, step in zip(sessions[rollout.id], rollout.result.steps, strict=True):
            assert step.completion.usage_prompt_tokens == len(exchange.request["prompt"])
            assert step.completion.usage_completion_tokens == len(exchange.reply["tokens"])
            assert exchange.reply["tokens_evaluated"] == len(exchange.request["prompt"])


def test_no_end_of_turn_is_doubled_or_missing(recorded):
    rollouts, _, renderer = recorded
    (close,) = renderer.certificate.close_ids
    for rollout in rollouts:
        ids = rollout.result.trajectory_data.token_ids.tolist()
        messages = len(rollout.result.prompt_messages) + len(rollout.result.to_messages())
        ended = ids[-1] in stops(renderer)
        answered = bool(rollout.result.steps[-1].observation)
        assert ids.count(close) == messages - (not ended) - answered
        assert all(not (a == close and b == close) for a, b in pairwise(ids))
