import asyncio
import functools
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.environment import AgentEnv, NoSandbox
from atropos_agent.errors import ConfigError, ServerUnreachable, TaskError
from atropos_agent.rubric import Attempt, Reward, Rubric
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import AgentResult, Blame, StopReason
from tests.spelling import Word
from tests.tokenizers_for_tests import chatml_renderer

RENDERER = chatml_renderer()
RESULT = AgentResult(True, "tac", StopReason.FINAL_ANSWER)


def is_reversed(attempt: Attempt[Word]) -> float:
    return attempt.answer == attempt.item.id[::-1]


async def is_short(attempt: Attempt[Word]) -> float:
    await asyncio.sleep(0)
    return 1 / len(attempt.answer or "none")


async def score(*rewards: Reward[Word], result=RESULT):
    return await Rubric(rewards).score(Word("cat"), result, sandbox=NoSandbox("test"))


async def value(function, **settings):
    return (await score(Reward("part", function, **settings))).value


async def test_the_score_is_the_weighted_sum_and_each_part_is_recorded_unweighted():
    found = await score(
        Reward("correct", is_reversed, weight=0.5), Reward("short", is_short, weight=-3.0, timeout_s=5)
    )
    assert found.value == pytest.approx(0.5 - 1.0)
    assert found.parts == {"correct": 1.0, "short": pytest.approx(1 / 3)}


async def test_a_weight_of_zero_is_recorded_and_does_not_count():
    found = await score(Reward("correct", is_reversed), Reward("seen", lambda _: 7, weight=0))
    assert (found.value, found.parts["seen"]) == (1.0, 7.0)


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2), min_size=1, max_size=8))
def test_the_score_follows_from_the_parts_whatever_their_order(pairs):
    rewards = [Reward(str(k), lambda _, raw=raw: raw, weight=weight) for k, (raw, weight) in enumerate(pairs)]
    one, other = asyncio.run(score(*rewards)), asyncio.run(score(*reversed(rewards)))
    assert one.value == other.value
    assert one.parts == other.parts == {str(k): raw for k, (raw, _) in enumerate(pairs)}


async def test_an_answer_is_empty_where_the_run_did_not_end_with_one():
    assert Attempt(Word("cat"), AgentResult(False, "tac", StopReason.MAX_STEPS), NoSandbox("")).answer == ""
    assert (await score(Reward("r", is_reversed), result=AgentResult(False, "", StopReason.ERROR))).value == 0


async def test_functions_of_every_kind_are_called():
    class Method:
        async def judge(self, attempt, bonus=0.0):
            return 1.0 + bonus

    judge = Method().judge
    assert await value(judge) == 1.0
    assert await value(functools.partial(judge, bonus=1.0)) == 2.0
    assert await value(lambda attempt: judge(attempt, 2.0)) == 3.0
    assert await value(lambda attempt: True) == 1.0


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ZeroDivisionError("by me"), "reward 'part' failed: ZeroDivisionError: by me"),
        (TimeoutError("mine"), "reward 'part' failed: TimeoutError: mine"),
        (StopIteration("odd"), "reward 'part' failed: RuntimeError"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("sync", [True, False])
async def test_a_function_that_raises_is_named(raised, said, sync):
    def fail(attempt):
        raise raised

    async def fail_later(attempt):
        raise raised

    with pytest.raises(TaskError, match=said) as caught:
        await value(fail if sync else fail_later)
    assert caught.value.__cause__ is not None


async def test_a_function_that_exits_does_not_end_the_process():
    with pytest.raises(TaskError, match=r"SystemExit\(3\)"):
        await value(lambda attempt: sys.exit(3))


@pytest.mark.parametrize("given", [None, "1", float("nan"), float("inf")])
async def test_what_is_no_finite_number_is_refused(given):
    with pytest.raises(TaskError, match="reward 'part' must give a finite number, got"):
        await value(lambda attempt: given)


async def test_an_async_function_that_is_late_is_named_and_cancelled():
    ended = asyncio.Event()

    async def slow(attempt):
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    with pytest.raises(TaskError, match=r"reward 'part' did not return within 0\.05 s"):
        await value(slow, timeout_s=0.05)
    assert ended.is_set()


async def test_a_sync_function_that_is_late_is_named_and_blocks_nobody_else():
    release, ticks = threading.Event(), 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(tick())
    try:
        with pytest.raises(TaskError, match="did not return within"):
            await value(lambda attempt: release.wait(600), timeout_s=0.2)
        assert ticks > 10
        assert await asyncio.to_thread(lambda: "the loop's own threads are free")
    finally:
        release.set()
        beside.cancel()
    for thread in threading.enumerate():
        if thread.name == "reward part":
            assert thread.daemon
            thread.join(60)


async def test_a_cancelled_scorer_lets_its_thread_go():
    started, release = threading.Event(), threading.Event()

    def wait(attempt):
        started.set()
        release.wait(600)
        return 1.0

    scoring = asyncio.create_task(value(wait))
    await asyncio.to_thread(started.wait, 60)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    release.set()
    for thread in threading.enumerate():
        if thread.name == "reward part":
            thread.join(60)


async def test_failures_that_are_not_the_functions_own_pass_as_they_are():
    def judge(attempt):
        raise ServerUnreachable("the judge is out")

    with pytest.raises(ServerUnreachable, match="the judge is out"):
        await value(judge)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        (list, "at least one Reward"),
        (lambda: [Reward("a", is_short), Reward("a", is_short)], r"several called \['a'\]"),
        (lambda: [Reward("", is_short)], "needs a name"),
        (lambda: [Reward("a", is_short, weight=float("nan"))], "reward 'a': weight must be a finite number"),
        (lambda: [Reward("a", is_short, timeout_s=0)], "reward 'a': timeout_s must be above 0"),
    ],
)
def test_a_rubric_that_cannot_score_is_refused_where_it_is_made(rewards, said):
    with pytest.raises(ConfigError, match=said):
        Rubric(rewards())


class Judged(AgentEnv[Word]):
    """Scored by a rubric; has no tools, so it has no sandbox either."""

    rubric = Rubric([Reward("correct", is_reversed, weight=0.75), Reward("short", is_short, weight=0.25)])

    async def get_next_item(self):
        return Word("cat")

    def build_task(self, item):
        return f"Write {item.id} backwards."

    def build_tools(self):
        from atropos_agent.toolset import ToolRegistry

        return ToolRegistry()

    async def verify_and_score_trajectory(
        self, item, final_response, *, sandbox, agent_result, workspace_meta
    ):
        return await self.rubric.score(item, agent_result, sandbox=sandbox, workspace_meta=workspace_meta)


class Broken(Judged):
    """One of its functions fails."""

    rubric = Rubric([Reward("correct", is_reversed), Reward("rude", lambda attempt: 1 / 0)])


def playing(env_type, *scripts):
    stop = int(RENDERER.certificate.close_ids[0])
    return env_type(FakePolicy(list(scripts), RENDERER, stop_id=stop), RENDERER)


async def test_an_environment_is_scored_by_its_rubric():
    async with playing(Judged, "tac") as env:
        rollout = await env.rollout(Word("cat"))
    assert rollout.score == pytest.approx(0.75 + 0.25 / 3)
    assert rollout.parts == {"correct": 1.0, "short": pytest.approx(1 / 3)}


async def test_a_reward_that_fails_leaves_the_rollout_unscored_with_its_traceback():
    async with playing(Broken, "tac") as env:
        rollout = await env.rollout(Word("cat"))
    failure = rollout.result.failure
    assert (rollout.score, rollout.attempts, failure.blame) == (None, 1, Blame.TASK)
    assert "reward 'rude' failed: ZeroDivisionError" in failure.text
    assert "lambda attempt: 1 / 0" in failure.traceback


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()])
async def test_an_exit_or_a_stray_cancellation_in_a_reward_names_it(error):
    async def judge(attempt):
        raise error

    with pytest.raises(TaskError, match=f"reward 'part' failed: {type(error).__name__}"):
        await value(judge)
