import asyncio
import logging

import pytest

from atropos_agent.toolset import Allow, Deny, Replace, decide
from atropos_agent.trajectory import ToolCall, ToolResult

CALLS = [ToolCall("echo", {"text": str(number)}, f"1.{number}", f"raw {number}") for number in range(3)]


def denied(result: object) -> str:
    assert isinstance(result, ToolResult)
    assert not result.success
    return result.error


async def test_without_a_gate_every_call_runs_as_written():
    assert await decide(None, CALLS) == CALLS


async def test_the_gate_is_asked_in_call_order_one_call_after_the_other():
    asked: list[str] = []

    async def gate(call: ToolCall) -> Allow:
        asked.append(f"asked {call.uniq_id}")
        await asyncio.sleep(0)
        asked.append(f"answered {call.uniq_id}")
        return Allow()

    assert await decide(gate, CALLS) == CALLS
    assert asked == [f"{what} 1.{k}" for k in range(3) for what in ("asked", "answered")]


async def test_each_call_has_its_own_decision():
    decisions = {"1.0": Allow(), "1.1": Deny("no shell today"), "1.2": Replace({"text": "new"})}

    async def gate(call: ToolCall) -> Allow | Deny | Replace:
        return decisions[call.uniq_id]

    first, second, third = await decide(gate, CALLS)
    assert first == CALLS[0]
    assert denied(second) == "Call denied: no shell today"
    assert second.uniq_id == "1.1"
    assert third == ToolCall("echo", {"text": "new"}, "1.2", "raw 2")


async def test_a_gate_that_raises_denies_by_name_and_is_logged(caplog: pytest.LogCaptureFixture):
    async def gate(call: ToolCall) -> Allow:
        if call.uniq_id == "1.1":
            raise KeyError("no rule")
        return Allow()

    with caplog.at_level(logging.ERROR):
        first, second, third = await decide(gate, CALLS)
    assert (first, third) == (CALLS[0], CALLS[2])
    assert denied(second) == "Call denied: the gate failed: KeyError: 'no rule'"
    (record,) = caplog.records
    assert "1.1" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("answer", [None, True, Allow, "allow"])
async def test_an_answer_that_is_no_decision_denies(answer: object):
    async def gate(call: ToolCall) -> object:
        return answer

    (verdict,) = await decide(gate, CALLS[:1])  # type: ignore[arg-type]
    assert "the gate failed: TypeError" in denied(verdict)
    assert "Deny(reason)" in denied(verdict)


async def test_a_cancel_in_the_gate_passes():
    async def gate(call: ToolCall) -> Allow:
        await asyncio.sleep(3600)
        return Allow()

    task = asyncio.create_task(decide(gate, CALLS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_long_reason_is_bounded_and_valid_unicode():
    async def gate(call: ToolCall) -> Deny:
        return Deny("\ud800" + "x" * 10**6)

    (verdict,) = await decide(gate, CALLS[:1])
    assert len(denied(verdict)) <= 4000
    assert "\ud800" not in denied(verdict)
