"""The calls of a step: the gate before them, side by side where that is safe, results in call order."""

import asyncio

import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import render_call
from atropos_agent.errors import SandboxLost
from atropos_agent.events import EventType
from atropos_agent.testing import FakePolicy
from atropos_agent.toolset import Allow, Deny, Replace, ToolRegistry, ToolSchema
from atropos_agent.trajectory import AgentResult, StopReason, ToolResult, Trace, text_of
from tests.agent.test_agent import RENDERER, STOP, Echo

TEXT = {"text": {"type": "string"}}


class Meeting(Echo):
    """Calls that return only once `expected` of them have begun, the later ones first."""

    def __init__(self, expected: int, *, parallel: bool = True, **marks) -> None:
        super().__init__()
        self.schema = ToolSchema.of("echo", "Echo.", TEXT, ("text",), parallel=parallel, **marks)
        self.running = self.most = 0
        self._expected = expected
        self._met = asyncio.Event()

    async def execute(self, arguments, context):
        self.running += 1
        self.most = max(self.most, self.running)
        if self.most >= self._expected:
            self._met.set()
        async with asyncio.timeout(5):
            await self._met.wait()
        for _ in range(100 - 10 * int(arguments["text"])):
            await asyncio.sleep(0)
        self.running -= 1
        if arguments["text"] == "9":
            raise SandboxLost("gone")
        return ToolResult(success=True, output=arguments["text"])


def calls(*texts) -> str:
    return "\n".join(render_call("echo", {"text": str(text)}) for text in texts)


async def played(scripts, *tools, gate=None, listeners=(), **config) -> AgentResult:
    policy = FakePolicy(scripts, RENDERER, stop_id=STOP)
    subject = AtroposAgent(policy, ToolRegistry(tools), AgentConfig(**config), RENDERER, gate=gate)
    return await subject.run("do it", listeners=listeners)


async def test_parallel_safe_calls_of_a_step_run_side_by_side_with_results_in_call_order():
    tool = Meeting(8)
    result = await played([calls(*range(8)), "done"], tool)
    assert tool.most == 8
    assert [r.output for r in result.steps[0].tool_results] == [str(n) for n in range(8)]
    assert [r.uniq_id for r in result.steps[0].tool_results] == [f"1.{n}" for n in range(1, 9)]


@pytest.mark.parametrize("other", ["1", "plain"])
async def test_one_call_that_is_not_safe_makes_the_step_go_one_by_one(other):
    tool = Meeting(1, parallel=other != "1")
    plain = Echo()
    plain.schema = ToolSchema.of("plain", "Echo.", TEXT, ("text",))
    script = calls(1, 2) if other == "1" else f"{calls(1, 2)}\n{render_call('plain', {'text': 'x'})}"
    result = await played([script, "done"], tool, plain)
    assert tool.most == 1
    assert result.success


async def test_a_call_that_loses_the_sandbox_ends_its_neighbours_and_the_step_says_so():
    result = await played([calls(9, 1, 2), "done"], Meeting(3))
    assert result.stop_reason is StopReason.SANDBOX_LOST
    assert [call.arguments["text"] for call in result.steps[0].tool_calls] == ["9", "1", "2"]
    assert result.steps[0].tool_results == ()


async def test_the_gate_answers_for_all_calls_in_order_before_the_first_one_starts():
    seen = []

    async def gate(call):
        seen.append(call.uniq_id)
        return Allow()

    class Late(Echo):
        async def execute(self, arguments, context):
            seen.append(f"run {context.call_id}")
            return await super().execute(arguments, context)

    result = await played([calls("a", "b"), "done"], Late(), gate=gate)
    assert seen == ["1.1", "1.2", "run 1.1", "run 1.2"]
    assert result.steps[0].executed == ()


async def test_denied_and_replaced_calls_are_recorded_as_requested_and_as_executed():
    async def gate(call):
        if call.arguments["text"] == "rm":
            return Deny("not that")
        return Replace({"text": "safe"}) if call.arguments["text"] == "ls" else Allow()

    events, tool = [], Echo()
    result = await played([calls("rm", "ls", "ok"), "done"], tool, gate=gate, listeners=[events.append])
    step = result.steps[0]
    assert tool.seen == ["safe", "ok"]
    assert [call.arguments["text"] for call in step.tool_calls] == ["rm", "ls", "ok"]
    assert [None if call is None else call.arguments["text"] for call in step.executed] == [
        None,
        "safe",
        "ok",
    ]
    assert [r.success for r in step.tool_results] == [False, True, True]
    assert "not that" in text_of(step.following[0])
    permissions = [event.data["decision"] for event in events if event.type is EventType.TOOL_PERMISSION]
    assert permissions == ["deny", "replace", "allow"]
    started = [event.call_id for event in events if event.type is EventType.TOOL_STARTED]
    assert started == ["1.2", "1.3"]


async def test_a_gate_that_raises_denies():
    async def gate(call):
        raise KeyError("no rule")

    tool = Echo()
    result = await played([calls("a"), "done"], tool, gate=gate)
    assert tool.seen == []
    assert "no rule" in result.steps[0].tool_results[0].error


async def test_waiting_for_the_gate_costs_the_run_no_time():
    async def gate(call):
        await asyncio.sleep(0.5)
        return Allow()

    result = await played([calls("a"), calls("b"), "done"], Echo(), gate=gate, max_wall_time_s=0.8)
    assert result.stop_reason is StopReason.FINAL_ANSWER
    assert result.spent.wall_s < 0.8


async def test_a_call_reports_its_activity_and_attaches_the_trace_of_another_agent():
    class Manager(Echo):
        async def execute(self, arguments, context):
            context.emit({"done": 0.5})
            worker = AtroposAgent(FakePolicy(["helped"], RENDERER, stop_id=STOP), tokenizer=RENDERER)
            context.add_trace(Trace(await worker.run("help"), name="worker", trainable=False))
            return ToolResult(success=True, output="helped")

    events = []
    policy = FakePolicy([calls("a"), "done"], RENDERER, stop_id=STOP)
    subject = AtroposAgent(policy, ToolRegistry([Manager()]), tokenizer=RENDERER)
    async with subject.start(listeners=[events.append]) as run:
        await run.turn("do it")
    (activity,) = [event for event in events if event.type is EventType.TOOL_ACTIVITY]
    assert (activity.call_id, activity.data) == ("1.1", {"done": 0.5})
    (trace,) = run.traces
    assert (trace.name, trace.parent_call, trace.result.final_response) == ("worker", "1.1", "helped")


async def test_a_trace_that_cannot_be_recorded_fails_its_call_alone():
    class Manager(Echo):
        async def execute(self, arguments, context):
            result = AgentResult(True, "", StopReason.FINAL_ANSWER)
            context.add_trace(Trace(result, name="worker", score=float("nan")))

    policy = FakePolicy([calls("a"), "done"], RENDERER, stop_id=STOP)
    subject = AtroposAgent(policy, ToolRegistry([Manager()]), tokenizer=RENDERER)
    async with subject.start() as run:
        await run.turn("do it")
    assert run.result().success
    assert "the trace 'worker' cannot be recorded" in run.result().steps[0].observation
    assert run.traces == []


async def test_calls_beyond_the_limit_are_neither_asked_of_the_gate_nor_executed():
    asked = []

    async def gate(call):
        asked.append(call.uniq_id)
        return Allow()

    tool = Echo()
    result = await played([calls("a", "b", "c"), "done"], tool, gate=gate, max_tool_calls=2)
    assert (asked, tool.seen) == (["1.1", "1.2"], ["a", "b"])
    assert result.stop_reason is StopReason.MAX_TOOL_CALLS
