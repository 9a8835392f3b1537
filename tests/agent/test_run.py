"""A run that goes on: further turns, limits, cancels, resumes."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.errors import ConfigError, RecordError, ServerUnreachable
from atropos_agent.events import EventType
from atropos_agent.policy import HttpPolicy
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy, FakeReply, FakeServer
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import (
    AgentResult,
    Blame,
    FinishReason,
    SequenceData,
    StopReason,
    ToolResult,
    text_of,
)
from tests.agent.test_agent import CALL, RENDERER, STOP, Echo, agent
from tests.agent.test_agent_wires import WIRES
from tests.tokenizers_for_tests import tokenizer_for

HANG = render_call("echo", {"text": "hang"})


def same(ours: Sequence[SequenceData], theirs: Sequence[SequenceData]) -> bool:
    """True for the same ids, masks, logprobs and spans, sequence by sequence."""
    return len(ours) == len(theirs) and all(
        np.array_equal(a.token_ids, b.token_ids)
        and np.array_equal(a.mask, b.mask)
        and np.array_equal(a.logprobs, b.logprobs, equal_nan=True)
        and a.spans == b.spans
        for a, b in zip(ours, theirs, strict=True)
    )


def begins_with(prompt, earlier) -> bool:
    return len(prompt) > len(earlier) and np.array_equal(prompt[: len(earlier)], earlier)


async def test_the_prompt_of_a_further_turn_begins_with_every_id_before_it():
    subject, policy = agent([CALL, "It is hi.", CALL, "Again hi."])
    async with subject.start() as run:
        first = await run.turn("What does it say?")
        second = await run.turn("And now?")
    prompts = [request.prompt_ids for request in policy.requests]
    result = run.result()
    assert (first.response, second.response) == ("It is hi.", "Again hi.")
    assert all(begins_with(after, before) for before, after in pairwise(prompts))
    assert begins_with(prompts[2], result.sequences[0].token_ids[: result.steps[1].span.end])
    assert [step.turn for step in result.steps] == [1, 1, 2, 2]
    assert [m["role"] for m in result.to_messages()] == ["assistant", "user"] * 3 + ["assistant"]
    assert len(result.sequences) == 1


async def test_run_is_start_and_one_turn():
    subject, _ = agent([CALL, "done"])
    other, _ = agent([CALL, "done"])
    async with subject.start(rollout_id="r", seed=3) as run:
        await run.turn("do it")
    once = await other.run("do it", rollout_id="r", seed=3)
    assert same(once.sequences, run.result().sequences)
    assert once.to_messages() == run.result().to_messages()


async def test_limits_of_steps_calls_and_repairs_count_within_a_turn():
    config = AgentConfig(max_steps=2, max_repairs=1)
    subject, _ = agent([CALL, "one", "<tool_call>{", "two", CALL, CALL], config=config)
    async with subject.start() as run:
        reasons = [(await run.turn(text)).stop_reason for text in ("a", "b", "c")]
    assert reasons == [StopReason.FINAL_ANSWER, StopReason.FINAL_ANSWER, StopReason.MAX_STEPS]


async def test_calls_that_a_limit_left_open_are_answered_when_the_conversation_goes_on():
    subject, policy = agent([CALL, "fine"], config=AgentConfig(max_steps=1))
    async with subject.start() as run:
        assert (await run.turn("do it")).stop_reason is StopReason.MAX_STEPS
        assert (await run.turn("Never mind.")).response == "fine"
    answered = text_of(run.result().steps[0].following[0])
    assert "Not executed" in answered
    assert answered.endswith("Never mind.")
    assert begins_with(policy.requests[1].prompt_ids, policy.requests[0].prompt_ids)


async def test_a_user_who_speaks_after_an_unanswered_observation_is_heard():
    subject, policy = agent([CALL, ServerUnreachable("gone"), "here again"])
    policy._scripts = lambda messages, step: [CALL, ServerUnreachable("gone")][step - 1]
    async with subject.start() as run:
        assert (await run.turn("do it")).stop_reason is StopReason.ERROR
        policy._scripts = lambda messages, step: "here again"
        assert (await run.turn("Still there?")).response == "here again"
    result = run.result()
    assert (result.failure, result.num_steps) == (None, 2)
    assert text_of(result.steps[0].following[0]).endswith("Still there?")
    prompt = policy.requests[-1].prompt_ids
    assert begins_with(prompt, result.sequences[0].token_ids[: result.steps[0].span.end])


async def test_without_a_message_a_turn_goes_on_where_the_conversation_stands():
    subject, policy = agent(["done"])
    policy._scripts = lambda messages, step: (
        ServerUnreachable("gone") if len(policy.requests) == 1 else "done"
    )
    async with subject.start(initial_messages=[{"role": "user", "content": "do it"}]) as run:
        assert (await run.turn()).stop_reason is StopReason.ERROR
        assert (await run.turn()).response == "done"
        with pytest.raises(ConfigError, match="nothing to answer"):
            await run.turn()
    with pytest.raises(ConfigError, match="closed"):
        await run.turn("more")


@pytest.mark.parametrize("script", [FakeReply("late", delay_s=60), HANG])
async def test_a_cancelled_run_returns_and_has_its_record(script):
    events = []
    subject, _ = agent([CALL, script])
    async with subject.start(listeners=[events.append]) as run:
        asyncio.get_running_loop().call_later(0.1, run.cancel)
        turn = await run.turn("do it")
    result = run.result()
    assert turn.stop_reason is result.stop_reason is StopReason.CANCELLED
    assert result.steps[0].tool_results[0].output == "hi"
    assert len(result.sequences[0].spans) == len(result.steps)
    assert events[-1].type is EventType.RUN_FINISHED
    assert events[-1].result is result
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("script", [FakeReply("late", delay_s=60), HANG])
async def test_a_cancelled_caller_gets_its_cancel_and_the_record_is_kept(script):
    events, runs = [], []
    subject, _ = agent([CALL, script])

    async def call():
        async with subject.start(listeners=[events.append]) as run:
            runs.append(run)
            await run.turn("do it")

    task = asyncio.create_task(call())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = runs[0].result()
    assert result.stop_reason is StopReason.CANCELLED
    assert result.steps[0].tool_results[0].output == "hi"
    assert events[-1].result is result


async def test_a_cancel_that_comes_as_the_turn_ends_stays_inside_the_turn():
    subject, _ = agent(["done"])
    ends = EventType.COMPLETION_FINISHED
    async with subject.start(listeners=[lambda e: run.cancel() if e.type is ends else None]) as run:
        assert (await run.turn("do it")).stop_reason is StopReason.CANCELLED
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0
    assert run.result().num_steps == 1


async def test_a_cancelled_request_is_dropped_at_the_server():
    async with FakeServer(lambda ask: FakeReply("late", delay_s=60), RENDERER, stop_id=STOP) as server:
        policy = HttpPolicy(server.url)
        subject = AtroposAgent(policy, tokenizer=RENDERER)
        async with subject.start() as run:
            asyncio.get_running_loop().call_later(0.3, run.cancel)
            await run.turn("do it")
        for _ in range(100):
            if server.aborted:
                break
            await asyncio.sleep(0.01)
        assert server.aborted == 1
        await policy.aclose()


async def test_a_conversation_goes_on_after_a_cancel():
    subject, policy = agent([CALL, HANG])
    async with subject.start() as run:
        asyncio.get_running_loop().call_later(0.1, run.cancel)
        await run.turn("do it")
        policy._scripts = lambda messages, step: "as you wish"
        turn = await run.turn("Stop that.")
    assert (turn.response, run.result().stop_reason) == ("as you wish", StopReason.FINAL_ANSWER)
    assert "Not executed" in text_of(run.result().steps[1].following[0])


async def test_messages_that_got_no_step_are_all_kept():
    subject, policy = agent(["first", "done"])
    fails = [2, 3]
    policy._scripts = lambda messages, step: (
        ServerUnreachable("gone") if len(policy.requests) in fails else "done"
    )
    async with subject.start() as run:
        await run.turn("begin")
        await run.turn("look at X")
        await run.turn("and at Y")
        assert (await run.turn("please")).response == "done"
    assert text_of(run.result().steps[0].following[0]).endswith("look at X\nand at Y\nplease")
    assert run.passed_over.error_type == "ServerUnreachable"


async def test_a_result_that_is_read_during_a_call_has_its_step_and_can_be_resumed():
    seen = []

    class Reading(Echo):
        async def execute(self, arguments, context):
            seen.append(run.result())
            return await super().execute(arguments, context)

    subject, _ = agent([CALL, "done"], Reading())
    async with subject.start() as run:
        await run.turn("do it")
    assert (seen[0].num_steps, len(seen[0].sequences[0].spans)) == (1, 1)
    again, _ = agent(lambda messages, step: "done")
    async with again.start(resume=seen[0]) as resumed:
        assert (await resumed.turn()).response == "done"


async def test_a_cancel_that_a_tool_swallows_still_ends_the_turn():
    class Stubborn(Echo):
        async def execute(self, arguments, context):
            run.cancel()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return ToolResult(success=False, error="not now")

    subject, _ = agent([CALL, "done"], Stubborn())
    async with subject.start() as run:
        assert (await run.turn("do it")).stop_reason is StopReason.CANCELLED
    assert asyncio.current_task().cancelling() == 0


async def test_a_sandbox_that_a_cancel_killed_is_not_the_policys_loss():
    subject, policy = agent([HANG])
    async with subject.start() as run:
        asyncio.get_running_loop().call_later(0.1, run.cancel)
        await run.turn("do it")
        policy._scripts = lambda messages, step: render_call("echo", {"text": "lost"})
        await run.turn("now this")
    failure = run.result().failure
    assert (run.result().stop_reason, failure.blame) == (StopReason.SANDBOX_LOST, Blame.INFRASTRUCTURE)


async def test_a_turn_number_and_a_limit_survive_a_resume():
    subject, policy = agent(["done"])
    async with subject.start() as run:
        await run.turn("one")
        policy._scripts = lambda messages, step: ServerUnreachable("gone")
        await run.turn("two")
    again, _ = agent(lambda messages, step: CALL, config=AgentConfig(max_steps=2))
    async with again.start(resume=run.result()) as resumed:
        await resumed.turn()
        assert (await resumed.turn()).stop_reason is StopReason.MAX_STEPS
    assert [step.turn for step in resumed.result().steps] == [1, 2, 2]


@pytest.mark.parametrize(
    "message",
    [{"role": "developer", "content": "x"}, {"role": "assistant", "content": None}, {"role": "user"}],
)
async def test_a_message_that_cannot_be_recorded_is_refused_where_it_comes_in(message):
    subject, _ = agent(["done"])
    with pytest.raises(ConfigError, match="message 1 has no form"):
        subject.start(initial_messages=[message])


LONG = ["<think>\nfirst\n</think>\n" + CALL, "<tool_call>{broken", f"{CALL}{CALL}", CALL, "done"]


async def prefixes(subject: AtroposAgent, **options) -> list[AgentResult]:
    """What was recorded after each step, and at the end."""
    seen: list[AgentResult] = []
    run = subject.start(
        listeners=[lambda e: seen.append(run.result()) if e.type is EventType.STEP_FINISHED else None],
        **options,
    )
    async with run:
        await run.turn("do it")
    return [*seen, run.result()]


@pytest.mark.parametrize("template", ["chatml", "trimming", "qwen3"])
@pytest.mark.parametrize("mode", ["append", "template"])
async def test_a_run_resumed_at_any_step_goes_on_with_the_same_ids(mode, template):
    renderer = Renderer(tokenizer_for(template), marks=HERMES_MARKS)
    stop = int(renderer.certificate.close_ids[0])

    def made():
        policy = FakePolicy(LONG, renderer, stop_id=stop)
        return AtroposAgent(policy, ToolRegistry([Echo()]), AgentConfig(history=mode), renderer), policy

    subject, policy = made()
    *recorded, whole = await prefixes(subject, seed=5)
    assert whole.success
    for done, result in enumerate(recorded, 1):
        again, resumed = made()
        async with again.start(resume=result, seed=5) as run:
            await run.turn()
        for ours, theirs in zip(resumed.requests, policy.requests[done:], strict=True):
            assert np.array_equal(ours.prompt_ids, theirs.prompt_ids)
            assert ours.sampling == theirs.sampling
        assert same(run.result().sequences, whole.sequences)
        assert run.result().to_messages() == whole.to_messages()
        assert run.result().breaks == whole.breaks
        assert run.result().total_tokens == whole.total_tokens


@pytest.mark.parametrize("wire", WIRES)
async def test_a_run_over_any_wire_can_be_resumed(wire):
    def script(ask):
        return LONG[ask.turn - 1]

    server = FakeServer(script, RENDERER, wire=wire, stop_id=STOP, render=RENDERER.text)
    async with server, HttpPolicy(server.url) as policy:
        subject = AtroposAgent(policy, ToolRegistry([Echo()]), tokenizer=RENDERER)
        *recorded, whole = await prefixes(subject, rollout_id="whole")
        result = recorded[-2]
        async with subject.start(resume=result, rollout_id="resumed") as run:
            server._turns["resumed"] = result.num_steps
            await run.turn()
    assert whole.success
    assert run.result().success, run.result().error
    assert same(run.result().sequences, whole.sequences)


async def test_counts_and_limits_of_a_resumed_run_go_on():
    config = AgentConfig(max_steps=3)
    subject, _ = agent([CALL, CALL, CALL], config=config)
    first, *_ = await prefixes(subject)
    again, policy = agent([CALL, CALL, CALL], config=config)
    async with again.start(resume=first) as run:
        turn = await run.turn()
    assert turn.stop_reason is StopReason.MAX_STEPS
    assert (len(policy.requests), run.result().num_steps) == (2, 3)


async def test_a_record_of_another_tokenizer_is_refused():
    subject, _ = agent([CALL, "done"])
    first, *_ = await prefixes(subject)
    other = Renderer(tokenizer_for("trimming"), marks=HERMES_MARKS)
    again, _ = agent([CALL, "done"], renderer=other)
    async with again.start(resume=first) as run:
        with pytest.raises(RecordError, match="resume with those of the recorded run"):
            await run.turn()


async def test_a_result_taken_inside_a_turn_says_that_it_is_unfinished():
    subject, _ = agent([CALL, "done"])
    *inside, last = await prefixes(subject)
    assert {result.stop_reason for result in inside} == {StopReason.UNFINISHED}
    assert last.stop_reason is StopReason.FINAL_ANSWER


async def test_a_cut_answer_can_be_followed_up():
    cut = FakeReply("<think>so", finish_reason=FinishReason.LENGTH)
    subject, policy = agent([cut, "well"], Echo())
    async with subject.start() as run:
        assert (await run.turn("do it")).stop_reason is StopReason.TRUNCATED
        assert (await run.turn("Be short.")).response == "well"
    assert begins_with(policy.requests[1].prompt_ids, policy.requests[0].prompt_ids)
    assert "reasoning_closed" in run.result().metadata["notes"]
