"""Servers that parse reasoning and calls out of the text themselves: nothing that was written is lost."""

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakeReply, FakeServer
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import AgentResult, Json, Provenance, StopReason
from tests.agent.test_agent import RENDERER, STOP, Echo
from tests.tokenizers_for_tests import tokenizer_for

SHOWING = Renderer(tokenizer_for("reasoning_field"), marks=HERMES_MARKS)


async def played(replies, *, renderer=RENDERER, wire=Wire.CHAT) -> tuple[AgentResult, list]:
    def script(ask):
        return replies[min(ask.turn, len(replies)) - 1]

    server = FakeServer(script, renderer, wire=wire, stop_id=STOP, render=renderer.text)
    async with server, HttpPolicy(server.url) as policy:
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), tokenizer=renderer)
        result = await agent.run("do it", rollout_id="r")
    return result, server.asks


def sampled(result: AgentResult, renderer=RENDERER) -> str:
    data = result.trajectory_data
    return renderer.decode(data.token_ids[data.mask])


RAW = '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "echo", "arguments": {"text": "hi"}}\n</tool_call>'


def parsed(content: str | None, *, reasoning="", arguments="", raw=RAW) -> FakeReply:
    """A completion that spells `raw`, as a server with parsers shows it."""
    message: dict[str, Json] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if arguments:
        message["tool_calls"] = [
            {"id": "x", "type": "function", "function": {"name": "echo", "arguments": arguments}}
        ]
    return FakeReply(raw, message=message)


HI = '{"text": "hi"}'


async def test_text_beside_tool_calls_keeps_both():
    result, asks = await played([parsed("I look.", arguments=HI), "done"])
    assert (result.stop_reason, result.num_steps) == (StopReason.FINAL_ANSWER, 2)
    first = result.steps[0]
    assert [call.arguments for call in first.tool_calls] == [{"text": "hi"}]
    assert first.tool_results[0].output == "hi"
    assert first.assistant_message.startswith("I look.\n<tool_call>")
    assert sampled(result).startswith(first.assistant_message)
    assert result.metadata["notes"]["calls_rejoined"] == 1
    said = asks[-1].messages[-2]
    assert said == {"role": "assistant", "content": first.assistant_message}


async def test_tool_calls_without_text_are_calls_and_no_broken_completion():
    result, _ = await played([parsed(None, arguments=HI), "done"])
    assert result.stop_reason is StopReason.FINAL_ANSWER, result.error
    assert result.steps[0].tool_results[0].output == "hi"


async def test_arguments_that_the_server_could_not_read_are_reported_to_the_policy():
    result, _ = await played([parsed(None, arguments='{"text": '), "done"])
    assert result.steps[0].parse_errors
    assert "Not run" in result.steps[0].observation


async def test_reasoning_content_is_kept_and_rendered_where_the_template_renders_it():
    result, _ = await played([parsed("Four.", reasoning="two and two")], renderer=SHOWING)
    step = result.steps[0]
    assert (step.completion.reasoning, step.assistant_message) == ("two and two", "Four.")
    assert step.message == {"role": "assistant", "content": "Four.", "reasoning": "two and two"}
    assert sampled(result, SHOWING) == "<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"
    assert step.span.provenance is Provenance.RETOKENIZED


async def test_reasoning_that_the_template_does_not_show_is_written_as_the_dialect_writes_it():
    result, _ = await played([parsed("Four.", reasoning="two and two")])
    assert sampled(result) == "<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"
    assert result.metadata["notes"]["reasoning_rejoined"] == 1


async def test_reasoning_goes_back_to_the_server_beside_the_text():
    replies = [parsed(None, reasoning="hm", arguments=HI), "done"]
    result, asks = await played(replies, renderer=SHOWING)
    assert result.success, result.error
    assert asks[-1].messages[-2]["reasoning_content"] == "hm"


@pytest.mark.parametrize("wire", [Wire.CHAT_IDS, Wire.CHAT_LOGPROBS])
async def test_tokens_that_spell_everything_are_the_record(wire):
    exact, _ = await played([RAW, "done"], wire=wire)
    result, _ = await played([parsed(None, reasoning="hm", arguments=HI), "done"], wire=wire)
    assert result.success, result.error
    assert result.steps[0].tool_results[0].output == "hi"
    assert result.steps[0].assistant_message == RAW
    assert np.array_equal(result.trajectory_data.token_ids, exact.trajectory_data.token_ids)
    assert np.array_equal(result.trajectory_data.logprobs, exact.trajectory_data.logprobs, equal_nan=True)
