from dataclasses import replace

import orjson
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.export import scored_groups
from atropos_agent.lint import Linter, Source, Vocabulary, sources
from atropos_agent.policy import HttpPolicy
from atropos_agent.policy.protocol import Wire
from atropos_agent.record import RunDir, read_groups
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy, FakeServer
from atropos_agent.testing.fake_scores import Scoring
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import Rollout, RolloutGroup, Trace
from tests.lint.clean_run import Echo, scripts_of, shipped_renderer, write_clean_run
from tests.tokenizers_for_tests import tokenizer_for


def codes_in(run):
    (source,) = sources(run)
    return {found.code for found in Linter(source).run()}


async def test_a_text_only_server_costs_the_logprobs_and_nothing_else(tmp_path):
    await write_clean_run(tmp_path / "run", 6, shipped_renderer(), wire=Wire.TEXT)
    assert codes_in(tmp_path / "run") == {"logprobs-absent"}


async def test_logprobs_that_were_asked_for_afterwards_are_no_defect(tmp_path):
    """Each rollout's own server tells them; the record says whose they are."""
    renderer, rollouts = shipped_renderer(), []
    for index in range(4):
        scripts = scripts_of(4, index)
        server = FakeServer(
            lambda ask, scripts=scripts: scripts[ask.turn - 1] if ask.session else "ok",
            renderer,
            wire=Wire.TEXT,
            stop_id=None,
            scoring=Scoring.PROMPT_LOGPROBS,
        )
        async with server, HttpPolicy(server.url) as policy:
            agent = AtroposAgent(policy, ToolRegistry([Echo()]), AgentConfig(rescore="server"), renderer)
            result = await agent.run("echo", rollout_id=f"item/0/{index}")
        assert result.metadata["notes"] == {}
        rollouts.append(Rollout(f"item/0/{index}", "item", index, (Trace(result, score=float(index % 2)),)))
    group = RolloutGroup("item", 0, tuple(rollouts))
    with RunDir.create(tmp_path / "run", {"config": {"policy": {"kind": "embedded"}}}) as run:
        run.add_group(group)
    assert codes_in(tmp_path / "run") == set()


async def test_every_sequence_of_a_rewritten_history_is_checked_and_the_break_told(tmp_path):
    """The template trims what the policy wrote, so every turn begins another sequence."""
    renderer, rollouts = Renderer(tokenizer_for("trimming"), marks=HERMES_MARKS), []
    (stop_id,) = renderer.certificate.stop_ids
    for index in range(2):
        call = render_call("echo", {"text": f"{index}"})
        policy = FakePolicy([f"{call}  ", f"{call}\n", "done."], renderer, stop_id=stop_id)
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), AgentConfig(history="template"), renderer)
        result = await agent.run("echo")
        assert len(result.sequences) == 3
        rollouts.append(Rollout(f"item/0/{index}", "item", index, (Trace(result, score=float(index)),)))
    group = RolloutGroup("item", 0, tuple(rollouts))
    with RunDir.create(tmp_path / "run", {"config": {"env": {"on_branch": "last"}}}) as run:
        run.add_group(group)
    (source,) = sources(tmp_path / "run", Vocabulary.of(renderer))
    linter = Linter(source)
    found = [(found.code, found.trajectory) for found in linter.run()]
    assert (found, linter.trajectories) == ([("prefix-break", 0), ("prefix-break", 1)], 6)


@pytest.mark.slow
async def test_a_thousand_clean_trajectories_give_no_finding(tmp_path):
    renderer = shipped_renderer()
    await write_clean_run(tmp_path / "run", 125, renderer)
    (source,) = sources(tmp_path / "run")
    linter = Linter(source)
    assert [str(finding) for finding in linter.run()] == []
    assert (linter.trajectories, linter.skipped) == (1000, ())
    groups = tmp_path / "groups.jsonl"
    groups.write_bytes(b"".join(orjson.dumps(group) + b"\n" for group in scored_groups(tmp_path / "run")))
    for known in (Vocabulary.of(renderer), Vocabulary(None, renderer.stop_ids), Vocabulary()):
        bare = Linter(Source(groups, known))
        assert [str(finding) for finding in bare.run()] == []
        assert bare.trajectories == 1000


async def test_a_sealed_run_is_as_clean_as_the_live_one(tmp_path):
    await write_clean_run(tmp_path / "run", 6, shipped_renderer())
    with RunDir.open(tmp_path / "run") as run:
        run.seal()
    linters = [Linter(source) for source in sources(tmp_path / "run")]
    assert [str(finding) for linter in linters for finding in linter.run()] == []
    assert [linter.trajectories for linter in linters] == [48, 0]


async def test_every_trained_trace_of_a_rollout_is_checked(tmp_path):
    renderer = shipped_renderer()
    await write_clean_run(tmp_path / "single", 1, renderer)
    (record,) = read_groups(tmp_path / "single")
    rollouts = [
        replace(one, traces=(one.trace, replace(other.trace, name="helper")))
        for one, other in zip(record.rollouts[:4], record.rollouts[4:], strict=True)
    ]
    with RunDir.create(tmp_path / "run", {}) as run:
        run.add_group(RolloutGroup("item", 0, tuple(rollouts)))
    (source,) = sources(tmp_path / "run", Vocabulary.of(renderer))
    linter = Linter(source)
    assert [str(finding) for finding in linter.run()] == []
    assert linter.trajectories == 8
