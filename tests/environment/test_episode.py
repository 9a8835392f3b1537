import asyncio

import pytest

from atropos_agent.config import AgentConfig
from atropos_agent.environment.blame import failure_to_retry, is_unscorable, unverified
from atropos_agent.errors import (
    ConfigError,
    ContextOverflow,
    ModelNotFound,
    RenderError,
    RequestTimeout,
    SandboxError,
    SandboxLost,
    ServerUnreachable,
    TaskError,
)
from atropos_agent.events import EventType
from atropos_agent.trajectory import (
    AgentResult,
    Blame,
    Failure,
    FailureKind,
    Rollout,
    Score,
    StopReason,
    Trace,
)
from tests.environment.echoing import Echo, Word, echo, solve

CAT = Word("cat")


def verifying(judge):
    """Echo with another verifier: `judge(item, answer, result) -> Score`."""

    class Judged(Echo):
        async def verify_and_score_trajectory(self, item, final_response, *, agent_result, **_):
            return judge(item, final_response, agent_result)

    return Judged


def raising(error):
    def judge(*_):
        raise error

    return verifying(judge)


async def one(env_type=Echo, scripts=solve, **settings) -> Rollout:
    async with echo(env_type, scripts, **settings) as env:
        return await env.rollout(CAT)


def ended(stop_reason, error=None, blame=None, score=None) -> Rollout:
    failure = None if error is None else Failure.of(error, blame=blame)
    result = AgentResult(False, "", stop_reason, failure=failure)
    return Rollout("cat#0.0", "cat", 0, (Trace(result, score=score),))


@pytest.mark.parametrize(
    ("rollout", "retried"),
    [
        (ended(StopReason.ERROR, ServerUnreachable("out")), True),
        (ended(StopReason.REQUEST_TIMEOUT, RequestTimeout("late")), True),
        (ended(StopReason.ERROR, SandboxError("disk")), True),
        (ended(StopReason.FINAL_ANSWER, ServerUnreachable("the judge is out")), True),
        (ended(StopReason.ERROR, RenderError("no template")), False),
        (ended(StopReason.ERROR, ModelNotFound("no such model")), False),
        (ended(StopReason.ERROR, ConfigError("wrong")), False),
        (ended(StopReason.FINAL_ANSWER, TaskError("the verifier failed")), False),
        (ended(StopReason.CONTEXT_LENGTH, ContextOverflow("full"), score=0.0), False),
        (ended(StopReason.SANDBOX_LOST, SandboxLost("gone"), Blame.POLICY, 0.0), False),
        (ended(StopReason.CANCELLED), False),
        (ended(StopReason.CANCELLED, ServerUnreachable("out")), False),
        (ended(StopReason.FINAL_ANSWER, score=1.0), False),
    ],
)
def test_only_failures_of_the_infrastructure_are_tried_again(rollout, retried):
    assert (failure_to_retry(rollout) is not None) is retried


@pytest.mark.parametrize(
    ("rollout", "unscorable"),
    [
        (ended(StopReason.ERROR, ServerUnreachable("out")), True),
        (ended(StopReason.ERROR, TaskError("mine")), True),
        (ended(StopReason.CANCELLED), True),
        (ended(StopReason.CONTEXT_LENGTH, ContextOverflow("full")), False),
        (ended(StopReason.SANDBOX_LOST, SandboxLost("gone"), Blame.POLICY), False),
        (ended(StopReason.WALL_TIME), False),
        (ended(StopReason.FINAL_ANSWER), False),
    ],
)
def test_what_the_policy_did_is_scored_and_nothing_else(rollout, unscorable):
    assert is_unscorable(rollout.result) is unscorable


@pytest.mark.parametrize(
    ("stop_reason", "error", "blame", "score"),
    [
        (StopReason.WALL_TIME, SandboxLost("gone"), Blame.POLICY, Score(0.0)),
        (StopReason.FINAL_ANSWER, SandboxLost("gone"), Blame.INFRASTRUCTURE, None),
        (StopReason.WALL_TIME, SandboxError("disk"), Blame.INFRASTRUCTURE, None),
        (StopReason.FINAL_ANSWER, ContextOverflow("the judge's prompt"), Blame.TASK, None),
        (StopReason.FINAL_ANSWER, TaskError("mine"), Blame.TASK, None),
    ],
)
def test_a_verifier_that_fails_gives_no_score_but_to_a_rollout_cut_off_in_its_sandbox(
    stop_reason, error, blame, score
):
    result, found = unverified(AgentResult(False, "", stop_reason), error)
    assert (result.failure.blame, found, result.stop_reason) == (blame, score, stop_reason)


async def test_infrastructure_failures_are_tried_again_as_often_as_configured():
    attempts = []

    def down_twice(messages, step):
        attempts.append(step)
        return ServerUnreachable("out") if len(attempts) <= 2 else solve(messages, step)

    assert (await one(scripts=down_twice, retries=1)).attempts == 2
    attempts.clear()
    rollout = await one(scripts=down_twice, retries=2)
    assert (rollout.score, rollout.attempts) == (1.0, 3)


async def test_a_verifier_that_fails_is_asked_once_and_its_traceback_is_kept():
    calls = []

    def judge(*_):
        calls.append(1)
        raise ZeroDivisionError("by the verifier")

    rollout = await one(verifying(judge), retries=3)
    failure = rollout.result.failure
    assert (rollout.score, rollout.attempts, len(calls)) == (None, 1, 1)
    assert (failure.kind, failure.blame) == (FailureKind.TASK, Blame.TASK)
    assert failure.text == "verifier of cat failed: ZeroDivisionError: by the verifier"
    assert 'raise ZeroDivisionError("by the verifier")' in failure.traceback
    assert rollout.result.num_steps == 1


async def test_a_judge_that_is_out_is_infrastructure():
    rollout = await one(raising(ServerUnreachable("the judge is out")), retries=1)
    assert (rollout.score, rollout.attempts, rollout.result.failure.blame) == (None, 2, Blame.INFRASTRUCTURE)


async def test_a_cancellation_that_a_verifier_raises_by_itself_costs_its_rollout_alone():
    rollout = await one(raising(asyncio.CancelledError()))
    assert rollout.score is None
    assert "verifier of cat failed: it awaited something that was cancelled" in rollout.result.error


async def test_an_exit_in_a_verifier_costs_its_rollout_alone():
    rollout = await one(raising(SystemExit(0)))
    assert (rollout.score, rollout.result.error) == (None, "verifier of cat failed: SystemExit: 0")


async def test_a_judge_that_cancels_inside_play_costs_its_rollout_alone():
    class Judged(Echo):
        async def play(self, item, run):
            await run.turn(self.build_task(item))
            raise asyncio.CancelledError

    async with echo(Judged, group_size=2) as env:
        group = await env.collect_group(CAT)
    assert [rollout.result.failure.blame for rollout in group.rollouts] == [Blame.TASK] * 2


async def test_a_sandbox_for_that_fails_costs_its_rollout():
    class Asking(Echo):
        needs_sandbox = True

        def sandbox_for(self, item, spec):
            raise KeyError("no image")

    rollout = await one(Asking)
    assert "sandbox_for of cat failed: KeyError: 'no image'" in rollout.result.error


async def test_a_task_that_cannot_be_stated_is_recorded_with_its_traceback():
    class Untold(Echo):
        def build_task(self, item):
            raise KeyError("no such task")

    failure = (await one(Untold, retries=2)).result.failure
    assert (failure.blame, failure.text) == (Blame.TASK, "play of cat failed: KeyError: 'no such task'")
    assert "build_task" in failure.traceback


async def test_faults_of_the_engine_are_not_blamed_on_the_environment():
    class Plain(Echo):
        async def play(self, item, run):
            await run.turn("hello")

    for env_type in (Echo, Plain):
        with pytest.raises(IndexError, match="FakePolicy has 0 scripts"):
            await one(env_type, [])


@pytest.mark.parametrize("rewards", [(), (0.5,), (None,)])
async def test_rewards_of_steps_are_recorded(rewards):
    rollout = await one(verifying(lambda *_: Score(1.0, step_rewards=rewards)))
    assert rollout.score == 1.0
    assert rollout.trace.step_rewards == rewards


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ((0.5, 0.5), "gave 2 step_rewards for 1 steps; give one a step, or none at all"),
        ((float("nan"),), "step_rewards with nan for step 1; it must be a finite number or None"),
        ((float("-inf"),), "step_rewards with -inf for step 1"),
        (("1",), "step_rewards with '1' for step 1"),
    ],
)
async def test_rewards_that_do_not_fit_the_steps_leave_the_rollout_unscored(rewards, said):
    rollout = await one(verifying(lambda *_: Score(1.0, step_rewards=rewards)))
    assert (rollout.score, rollout.trace.step_rewards) == (None, ())
    assert said in rollout.result.error


async def test_each_listener_hears_all_of_a_rollout():
    first, second = [], []
    async with echo() as env:
        await env.rollout(CAT, listeners=[first.append, second.append])
    assert [event.sequence for event in first] == list(range(len(first)))
    assert (first[0].type, first[-1].type) == (EventType.RUN_STARTED, EventType.RUN_FINISHED)
    assert first == second


async def test_the_task_is_printed_where_that_is_asked_for(monkeypatch, caplog):
    monkeypatch.setenv("ATROPOS_DEBUG_PRINT_TASK", "1")
    await one()
    assert "task of cat#0.0: Write cat backwards." in caplog.text


async def test_a_limit_of_the_policy_is_scored_by_the_verifier():
    rollout = await one(agent=AgentConfig(max_tokens=1))
    assert (rollout.result.stop_reason, rollout.score) == (StopReason.TRUNCATED, 0.0)


async def test_a_failed_turn_decides_though_the_conversation_went_on_after_it():
    class Talking(Echo):
        async def play(self, item, run):
            await run.turn(self.build_task(item))
            await run.turn("And then?")

    calls = []

    def once_out(messages, step):
        calls.append(1)
        return ServerUnreachable("out") if len(calls) == 1 else "cat"

    rollout = await one(Talking, once_out)
    failure = rollout.result.failure
    assert (rollout.score, failure.blame, failure.error_type) == (
        None,
        Blame.INFRASTRUCTURE,
        "ServerUnreachable",
    )


async def test_a_play_that_stumbles_over_a_failed_turn_does_not_hide_the_servers_failure():
    class Reading(Echo):
        async def play(self, item, run):
            int((await run.turn(self.build_task(item))).response)

    rollout = await one(Reading, lambda messages, step: ServerUnreachable("out"), retries=1)
    assert (rollout.attempts, rollout.result.failure.blame) == (2, Blame.INFRASTRUCTURE)
