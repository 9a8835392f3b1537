import asyncio

import pytest

from atropos_agent.config import AgentConfig, EnvConfig
from atropos_agent.environment.episode import Outcome
from atropos_agent.environment.groups import is_complete
from atropos_agent.trajectory import AgentResult, Rollout, RolloutGroup, Score, StopReason, Trace
from tests.environment.echoing import Echo, Word, echo

RESULT = AgentResult(True, "", StopReason.FINAL_ANSWER)


def test_a_trainable_helper_without_a_score_gets_the_rollouts():
    helpers = (Trace(RESULT, "planner"), Trace(RESULT, "critic", score=0.25), Trace(RESULT, "judge", False))
    main, *others = Outcome(RESULT, Score(0.5, {"part": 0.5}, {}, (0.5,)), helpers).all_traces()
    assert (main.score, main.parts, main.step_rewards) == (0.5, {"part": 0.5}, (0.5,))
    assert [(one.name, one.score, dict(one.parts)) for one in others] == [
        ("planner", 0.5, {}),
        ("critic", 0.25, {}),
        ("judge", None, {}),
    ]


def test_helpers_of_an_unscored_rollout_are_kept_as_they_came():
    helpers = (Trace(RESULT, "planner"),)
    assert [trace.score for trace in Outcome(RESULT, None, helpers).all_traces()] == [None, None]


def group(*scores) -> RolloutGroup:
    """Rollouts of two trainable agents, with these scores."""
    rollouts = [
        Rollout(f"r{k}", "r", k, (Trace(RESULT, score=one), Trace(RESULT, "helper", score=other)))
        for k, (one, other) in enumerate(scores)
    ]
    return RolloutGroup("r", 0, tuple(rollouts))


@pytest.mark.parametrize(
    ("scores", "minimum", "complete"),
    [
        ([(1.0, 1.0), (0.0, 1.0)], None, True),
        ([(1.0, 1.0), (1.0, None)], None, False),
        ([(1.0, 1.0), (None, None)], 1, True),
    ],
)
def test_a_group_is_complete_by_rollouts_whose_agents_are_all_scored(scores, minimum, complete):
    assert is_complete(group(*scores), EnvConfig(min_group_size=minimum)) is complete


async def test_rollouts_of_a_group_run_side_by_side_and_known_ones_are_not_repeated():
    present = asyncio.Barrier(3)

    class Meeting(Echo):
        async def setup_trajectory_workspace(self, item, *, sandbox):
            await present.wait()
            return {}

    kept = []

    async def keep(rollout):
        kept.append(rollout.index)

    async with echo(Meeting) as env:
        known = Rollout("known", "cat", 1, (Trace(RESULT, score=0.0),))
        found = await env.collect_group(Word("cat"), 4, known=[known], on_rollout=keep)
    assert [rollout.index for rollout in found.rollouts] == [0, 1, 2, 3]
    assert found.rollouts[1] is known
    assert sorted(kept) == [0, 2, 3]


async def test_a_group_that_leaves_no_row_is_none_to_a_trainer(caplog):
    async with echo(agent=AgentConfig(max_context_tokens=5), group_size=2) as env:
        item = await env.get_next_item()
        assert await env.collect_trajectories(item) == (None, [])
    assert "0 of the 2 rollouts" in caplog.text
    assert "2 without sampled tokens" in caplog.text


async def test_one_rollout_is_a_group_under_any_minimum():
    async with echo(min_group_size=2) as env:
        group, _ = await env.collect_trajectory(await env.get_next_item())
    assert group is not None
    assert group["scores"] == [1.0]
