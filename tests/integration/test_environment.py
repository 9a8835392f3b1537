import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from atropos_agent.config import AgentConfig, EnvConfig, SandboxConfig, load_run_config, validate
from atropos_agent.dialects.hermes import render_call
from atropos_agent.environment import AgentEnv, open_environment
from atropos_agent.environment.contract import sandbox_spec
from atropos_agent.errors import ConfigError, SandboxUnavailable, ServerUnreachable, TaskError
from atropos_agent.plugins import load
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import Score, StopReason
from atropos_environments.terminal_tasks import TerminalTasks, TerminalTasksConfig
from tests.spelling import Spelling, Word, solve
from tests.tokenizers_for_tests import chatml_renderer

RENDERER = chatml_renderer()
STOP = int(RENDERER.certificate.close_ids[0])
LOOK = render_call("terminal", {"command": "ls -A; touch seen"})
CONFIGS = sorted(Path("configs").rglob("*.yaml"))


def spelling(scripts, *, retries=0, group_size=4, slots=2, **agent) -> Spelling:
    return Spelling(
        FakePolicy(scripts, RENDERER, stop_id=STOP),
        RENDERER,
        config=EnvConfig(group_size=group_size, infrastructure_retries=retries),
        agent=AgentConfig(**agent),
        sandbox=SandboxConfig(slots=slots),
    )


async def test_a_rollout_is_scored_by_what_the_sandbox_holds():
    async with spelling(solve) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.score, rollout.parts) == (1.0, {"file": 1.0})
    assert rollout.result.stop_reason is StopReason.FINAL_ANSWER
    assert rollout.isolation["unsafe"] is False


async def test_a_group_is_more_rollouts_than_slots_each_in_a_fresh_workspace():
    def once(messages, step):
        return solve(messages, step) if step > 1 else LOOK

    async with spelling(once, group_size=6) as env:
        group = await env.collect_group(Word("cat"))
        scored, backlog = await env.collect_trajectories(Word("dog"))
        single, _ = await env.collect_trajectory(Word("dog"))
    assert [rollout.index for rollout in group.rollouts] == list(range(6))
    assert {rollout.result.steps[0].tool_results[0].output for rollout in group.rollouts} == {""}
    assert len({rollout.id for rollout in group.rollouts}) == 6
    assert {len(scored[key]) for key in ("tokens", "masks", "scores", "inference_logprobs")} == {6}
    assert (backlog, len(single["tokens"])) == ([], 1)


async def test_rollouts_of_a_group_are_sampled_with_different_seeds_reproducibly():
    async def seeds():
        async with spelling(solve) as env:
            await env.collect_group(Word("cat"))
            return sorted(request.sampling.seed for request in env.policy.requests)

    first = await seeds()
    assert len(set(first)) == len(first) == 8
    assert await seeds() == first


@pytest.mark.parametrize("word", ["unscorable", "untaskable", "infinite"])
async def test_an_environment_that_fails_costs_its_rollout_and_is_named(word):
    async with spelling(solve) as env:
        broken, whole = await asyncio.gather(env.rollout(Word(word)), env.rollout(Word("cat")))
    assert (broken.score, broken.result.error_type) == (None, "TaskError")
    assert word in broken.result.error
    assert whole.score == 1.0


class OfItsOwn(Spelling):
    """Each word comes with a directory that holds it, and takes few processes."""

    def sandbox_for(self, item, spec):
        return replace(spec, template=f"{self.place}/{item.id}", processes=64)


async def test_an_item_brings_the_sandbox_it_needs(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/hint.txt").write_text("tac")
    env = OfItsOwn(
        FakePolicy(
            lambda messages, step: solve(messages, step) if step > 1 else LOOK, RENDERER, stop_id=STOP
        ),
        RENDERER,
    )
    env.place = tmp_path
    async with env:
        rollout = await env.rollout(Word("cat"))
        missing = await env.rollout(Word("dog"))
    assert rollout.result.steps[0].tool_results[0].output == "hint.txt"
    assert rollout.score is not None
    assert (missing.score, missing.result.error_type) == (None, "SandboxError")
    assert "dog" in missing.result.error


async def test_a_dead_server_is_tried_again_and_never_scored():
    async with spelling(lambda messages, step: ServerUnreachable("nobody"), retries=2) as env:
        rollout = await env.rollout(Word("cat"))
        group, _ = await env.collect_trajectories(Word("cat"))
    assert (rollout.score, rollout.attempts, rollout.result.error_type) == (None, 3, "ServerUnreachable")
    assert group is None


async def test_one_failing_rollout_leaves_the_others():
    calls = iter(range(100))

    def sometimes(messages, step):
        return ServerUnreachable("nobody") if next(calls) == 0 else solve(messages, step)

    async with spelling(sometimes) as env:
        group = await env.collect_group(Word("cat"))
    scores = [rollout.score for rollout in group.rollouts]
    assert sorted(scores, key=str) == [1.0, 1.0, 1.0, None]


async def test_killing_everything_in_the_sandbox_is_scored_not_retried():
    def hostile(messages, step):
        return render_call("terminal", {"command": "kill -9 -1"}) if step == 1 else "done"

    async with spelling(hostile, retries=2) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.score, rollout.attempts) == (0.0, 1)


async def test_waiting_for_the_server_is_not_held_against_the_policy():
    slow = FakePolicy(solve, RENDERER, stop_id=STOP, delay_s=30)
    agent = AgentConfig(max_wall_time_s=0.3)
    async with Spelling(slow, RENDERER, config=EnvConfig(infrastructure_retries=0), agent=agent) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.result.stop_reason, rollout.score) == (StopReason.WALL_TIME, None)


async def test_a_command_that_outlives_the_rollout_is_scored():
    def sleeper(messages, step):
        return render_call("terminal", {"command": "printf tac > answer.txt; sleep 60"})

    async with spelling(sleeper, max_wall_time_s=0.7) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.result.stop_reason, rollout.score) == (StopReason.WALL_TIME, 1.0)


async def test_validate_proves_items_in_the_sandbox():
    async with spelling([]) as env:
        proofs = await env.validate([Word("cat"), Word("dog")])
        with pytest.raises(TaskError):
            await env.get_item("cat")
    assert all(proof.holds for proof in proofs)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_is_valid_down_to_its_environment(path):
    config = load_run_config(path, environ={})
    env_type = load("environments", config.environment)
    assert issubclass(env_type, AgentEnv)
    assert validate(env_type.config_type, config.env, source=str(path)).group_size > 0


async def test_what_is_wrong_in_the_env_section_is_located():
    config = load_run_config(CONFIGS[0], ["--env.famlies=x"], {})
    with pytest.raises(ConfigError, match=r"env\.famlies: unknown key"):
        async with open_environment(config):
            pass


async def test_a_call_that_takes_too_long_leaves_the_sandbox_whole():
    def impatient(messages, step):
        commands = {1: "printf t > answer.txt; sleep 30", 2: "printf ac >> answer.txt"}
        return render_call("terminal", {"command": commands[step]}) if step in commands else "done"

    async with spelling(impatient, tool_timeout_s=0.5) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.result.stop_reason, rollout.score) == (StopReason.FINAL_ANSWER, 1.0)
    assert "timed out" in rollout.result.steps[0].observation


async def test_each_call_for_an_item_is_a_rollout_of_its_own():
    async with spelling(solve) as env:
        one, two = await env.rollout(Word("cat")), await env.rollout(Word("cat"))
        first, second = await env.collect_group(Word("dog")), await env.collect_group(Word("dog"))
        seeds = [request.sampling.seed for request in env.policy.requests]
    assert one.id != two.id
    assert (first.repetition, second.repetition) == (0, 1)
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    "score", [None, Score(None), Score(1.0, {"x": float("nan")}), Score(1.0, {}, {"p": Path()})], ids=repr
)
async def test_a_score_that_cannot_be_recorded_costs_its_rollout(score):
    class Careless(Spelling):
        async def verify_and_score_trajectory(self, item, final_response, **_):
            return score

    policy = FakePolicy(solve, RENDERER, stop_id=STOP)
    async with Careless(policy, RENDERER, config=EnvConfig(infrastructure_retries=0)) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.score, rollout.result.error_type, rollout.result.num_steps) == (None, "TaskError", 2)


async def test_a_judge_that_cannot_be_reached_keeps_the_trajectory():
    class Judged(Spelling):
        async def verify_and_score_trajectory(self, item, final_response, **_):
            raise ServerUnreachable("the judge is out")

    policy = FakePolicy(solve, RENDERER, stop_id=STOP)
    async with Judged(policy, RENDERER, config=EnvConfig(infrastructure_retries=0)) as env:
        rollout = await env.rollout(Word("cat"))
    assert (rollout.score, rollout.result.error, rollout.result.num_steps) == (None, "the judge is out", 2)


def test_a_minimum_above_the_group_is_refused():
    with pytest.raises(ConfigError, match="min_group_size 9 is above group_size 8"):
        validate(EnvConfig, {"min_group_size": 9}, source="here")


async def test_a_workspace_too_full_to_be_read_scores_nothing():
    names = """awk 'BEGIN{for(i=0;i<36000;i++){f=sprintf("%0250d",i);printf "" > f;close(f)}}'"""

    def hostile(messages, step):
        return render_call("terminal", {"command": names}) if step == 1 else "Done."

    policy = FakePolicy(hostile, RENDERER, stop_id=STOP)
    async with TerminalTasks(policy, RENDERER, config=TerminalTasksConfig(infrastructure_retries=0)) as env:
        rollout = await env.rollout(await env.get_item("count_lines/1/7"))
    assert (rollout.score, rollout.parts) == (0.0, {"readable": 0.0})


REQUIRING = """
environment: terminal_tasks
policy: http://127.0.0.1:9/v1
sandbox: {backend: local, cpu_s: 2, readonly_binds: [/opt], require: {network: hard}}
"""


async def test_a_requirement_that_is_not_held_refuses_the_run_before_its_server_is_asked(tmp_path):
    (tmp_path / "run.yaml").write_text(REQUIRING)
    config = load_run_config(tmp_path / "run.yaml", environ={})
    spec = sandbox_spec(config.sandbox)
    assert (spec.cpu_s, spec.readonly_binds, spec.require) == (2.0, ("/opt",), {"network": "hard"})
    with pytest.raises(SandboxUnavailable, match="local: network is held by 'none', but 'hard' is required"):
        async with open_environment(config):
            pass
