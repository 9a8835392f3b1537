import asyncio
import itertools
import os

import numpy as np
import pytest

from atropos_agent.dialects.hermes import render_call
from atropos_agent.errors import ServerUnreachable
from atropos_agent.events import EventType
from atropos_agent.telemetry import Kind, table
from atropos_agent.toolset import ToolRegistry, ToolSchema
from atropos_agent.trajectory import Blame, Score, StopReason, ToolResult, Trace, text_of
from tests.environment.echoing import RENDERER, Echo, Word, echo
from tests.processes import alive, descendants

CAT = Word("cat")


class Coached(Echo):
    """A simulated user that asks again, twice at most."""

    async def play(self, item, run):
        turn = await run.turn(self.build_task(item))
        for hint in ("No. Begin with the last letter.", "No. Try once more."):
            if turn.stop_reason is not StopReason.FINAL_ANSWER or turn.response == item.id[::-1]:
                return
            turn = await run.turn(hint)


async def test_a_simulated_user_plays_three_turns_and_each_prompt_begins_with_all_ids_before_it():
    answers = ["cat", "act", "tac"]
    async with echo(Coached, answers) as env:
        rollout = await env.rollout(CAT)
        requests = env.policy.requests
    result = rollout.result
    assert (rollout.score, result.num_steps, result.stop_reason) == (1.0, 3, StopReason.FINAL_ANSWER)
    assert [step.turn for step in result.steps] == [1, 2, 3]
    assert [text_of(m) for m in result.to_messages() if m["role"] == "user"] == [
        "No. Begin with the last letter.",
        "No. Try once more.",
    ]
    for before, after in itertools.pairwise(requests):
        assert len(after.prompt_ids) > len(before.prompt_ids)
        assert np.array_equal(after.prompt_ids[: len(before.prompt_ids)], before.prompt_ids)
    (sequence,) = result.sequences
    assert RENDERER.decode(sequence.token_ids[sequence.mask]).replace("<|im_end|>", " ").split() == answers
    assert len(sequence.token_ids) > len(requests[-1].prompt_ids)


async def test_a_user_who_is_content_asks_no_more():
    async with echo(Coached, ["tac"]) as env:
        rollout = await env.rollout(CAT)
    assert (rollout.score, rollout.result.num_steps) == (1.0, 1)


async def test_rewards_of_steps_follow_the_steps_of_all_turns():
    class Rewarded(Coached):
        async def verify_and_score_trajectory(self, item, final_response, *, agent_result, **_):
            rewards = [float(step.assistant_message == "tac") for step in agent_result.steps]
            return Score(rewards[-1], step_rewards=(None, *rewards[1:]))

    async with echo(Rewarded, ["cat", "act", "tac"]) as env:
        rollout = await env.rollout(CAT)
    assert rollout.trace.step_rewards == (None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("error", "blame", "attempts"),
    [(KeyError("no hint"), Blame.TASK, 1), (ServerUnreachable("the user is out"), Blame.INFRASTRUCTURE, 3)],
    ids=["task", "infrastructure"],
)
async def test_a_user_that_fails_leaves_the_record_of_what_was_played_unscored(error, blame, attempts):
    class Failing(Echo):
        async def play(self, item, run):
            await run.turn(self.build_task(item))
            raise error

    async with echo(Failing, ["tac"], retries=2) as env:
        rollout = await env.rollout(CAT)
    result = rollout.result
    assert (rollout.score, rollout.attempts, result.failure.blame) == (None, attempts, blame)
    assert (result.num_steps, result.stop_reason, result.success) == (1, StopReason.ERROR, False)
    assert len(result.sequences) == 1


async def test_a_play_without_a_turn_is_a_failure_of_the_task():
    class Silent(Echo):
        async def play(self, item, run):
            return

    async with echo(Silent, []) as env:
        rollout = await env.rollout(CAT)
    assert (rollout.score, rollout.result.failure.blame) == (None, Blame.TASK)
    assert "play of cat took no turn; await run.turn(message)" in rollout.result.error


class Helper:
    """A tool that runs another agent on the same policy, and attaches what it did."""

    schema = ToolSchema.of("ask_helper", "Ask another agent.", external=True)

    def __init__(self, agent, trainable):
        self._agent, self._trainable = agent, trainable

    def is_available(self):
        return True, ""

    async def execute(self, arguments, context):
        result = await self._agent().run("Help me.", rollout_id=f"{context.rollout_id}/helper")
        context.add_trace(Trace(result, "helper", self._trainable, parent_call=context.call_id))
        return ToolResult(success=True, output=result.final_response)


class Helped(Echo):
    trainable = False

    def build_tools(self):
        return ToolRegistry([Helper(lambda: self.agent, self.trainable)])


class HelpedByATrainee(Helped):
    trainable = True


def ask_first(messages, step):
    if text_of(messages[1]) == "Help me.":
        return "from its end"
    return render_call("ask_helper", {}) if step == 1 else "tac"


async def test_another_agent_of_a_rollout_has_a_trace_of_its_own():
    async with echo(Helped, ask_first) as env:
        rollout = await env.rollout(CAT)
    main, helper = rollout.traces
    assert rollout.result is main.result
    assert (main.name, main.score, main.result.num_steps) == ("agent", 1.0, 2)
    assert (helper.name, helper.trainable, helper.score) == ("helper", False, None)
    assert helper.parent_call == main.result.steps[0].tool_calls[0].uniq_id
    assert helper.result.final_response == main.result.steps[0].tool_results[0].output == "from its end"


async def test_a_trainable_helper_is_scored_with_its_rollout():
    async with echo(HelpedByATrainee, ask_first, group_size=2) as env:
        group = await env.collect_group(CAT)
        assert env.is_complete(group)
    assert [[trace.score for trace in rollout.traces] for rollout in group.rollouts] == [[1.0, 1.0]] * 2


class Interrupted(Echo):
    """A user who loses patience while the policy writes."""

    verified = 0

    async def play(self, item, run):
        turn = asyncio.create_task(run.turn(self.build_task(item)))
        while not self.policy.requests:  # noqa: ASYNC110 - the policy has no event for it
            await asyncio.sleep(0)
        run.cancel()
        await turn

    async def verify_and_score_trajectory(self, item, final_response, **_):
        type(self).verified += 1
        return Score(0.0)


async def test_a_cancelled_rollout_has_its_record_and_is_neither_scored_nor_tried_again():
    events = []
    async with echo(Interrupted, ["tac"], retries=3) as env:
        env.policy._delay_s = 600
        rollout = await env.rollout(CAT, listeners=[events.append])
    result = rollout.result
    assert (rollout.score, rollout.attempts, Interrupted.verified) == (None, 1, 0)
    assert (result.stop_reason, result.failure) == (StopReason.CANCELLED, None)
    assert text_of(result.prompt_messages[-1]) == "Write cat backwards."
    (finished,) = [event for event in events if event.type is EventType.RUN_FINISHED]
    assert finished.result.stop_reason is StopReason.CANCELLED


async def test_a_user_may_interrupt_and_go_on():
    class Patient(Interrupted):
        async def play(self, item, run):
            await super().play(item, run)
            self.policy._delay_s = 0
            await run.turn("Go on.")

        verify_and_score_trajectory = Echo.verify_and_score_trajectory

    async with echo(Patient, ["tac"]) as env:
        env.policy._delay_s = 600
        rollout = await env.rollout(CAT)
    assert (rollout.score, rollout.result.stop_reason) == (1.0, StopReason.FINAL_ANSWER)


class Boxed(Echo):
    needs_sandbox = True


@pytest.mark.integration
async def test_a_cancelled_caller_gets_its_cancellation_after_sandbox_and_request_are_released():
    events, before = [], descendants(os.getpid())
    async with echo(Boxed, ["tac"], retries=3) as env:
        env.policy._delay_s = 600
        caller = asyncio.create_task(env.rollout(CAT, listeners=[events.append]))
        while not env.policy.requests:  # noqa: ASYNC110 - the policy has no event for it
            await asyncio.sleep(0)
        held = [entry.kind for entry in table() if entry.owner == "cat#0.0"]
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(1):
                await caller
        assert [entry for entry in table() if entry.owner == "cat#0.0"] == []
        assert Kind.SANDBOX in held
        assert [task for task in asyncio.all_tasks() if "turn" in repr(task.get_coro())] == []
    assert alive(descendants(os.getpid()) - before) == set()
    assert [event.result.stop_reason for event in events if event.result] == [StopReason.CANCELLED]
