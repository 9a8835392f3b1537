"""A branch that no probe holds is caught while the rollout goes on, wherever it stands, at a flat cost."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.errors import BridgeMismatch
from atropos_agent.renderer import Renderer
from atropos_agent.renderer.runtime_check import window
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import AgentResult, FinishReason, Message, StopReason, ToolResult
from tests.tokenizers_for_tests import CHATML, tokenizer_for

TURNS = 12
# What a policy, a tool or a user would have to write for the branch to be taken.
WORD = "xyzzy"
CLOSE, HEADER = "m.content + '<|im_end|>\\n'", "'<|im_start|>' + m.role"
SHOUTED = "'<|im_start|>' + (m.role | upper if {} else m.role)"
PLANTED = {
    "the text itself": CHATML.replace(
        CLOSE, f"m.content + (' (noted)' if '{WORD}' in m.content else '') + '<|im_end|>\\n'"
    ),
    "the first question": CHATML.replace(HEADER, SHOUTED.format(f"'{WORD}' in messages[:2] | string")),
    "the message before": CHATML.replace(
        HEADER, SHOUTED.format(f"loop.index > 2 and '{WORD}' in messages[loop.index0 - 2].content")
    ),
    "the middle": CHATML.replace(
        HEADER, SHOUTED.format(f"loop.index > 19 and '{WORD}' in messages[10].content")
    ),
    "earlier headers": CHATML.replace(
        HEADER, SHOUTED.format(f"loop.index == 16 and '{WORD}' in messages[-1].content")
    ),
    "the number of messages": CHATML.replace(HEADER, SHOUTED.format("messages | length > 19")),
    "the end of a long one": CHATML.replace(HEADER, SHOUTED.format("loop.last and messages | length > 19")),
    "a window": (
        f"{{%- if '{WORD}' in messages[:2] | string and messages | length > 2"
        " and '\"turn\": 1}' not in messages[2].content %}"
        "{{- raise_exception('the first turn is missing') }}{%- endif %}"
    )
    + CHATML,
}
OBSERVATION: Message = {"role": "user", "content": "<tool_response>{}</tool_response>"}


@cache
def planted(place: str, on_mismatch: Literal["count", "raise"] = "raise") -> Renderer:
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = PLANTED[place]
    return Renderer(tokenizer, on_mismatch=on_mismatch, marks=HERMES_MARKS)


async def rollout(
    renderer: Renderer, *, question: str = "do it", said: int = 0, seen: int = 0, turns: int = TURNS
) -> AgentResult:
    """`turns` tool turns and an answer; the text of turn `said` and the output of turn `seen` hold WORD."""

    def script(_messages, step):
        text = ("</think>" if renderer.opens_reasoning else "") + (WORD if step == said else "")
        return f"{text} {render_call('look', {'turn': step})}" if step <= turns else f"{text} done"

    async def look(call, context):
        turn = call.arguments["turn"]
        return ToolResult(success=True, output=f"page {turn} {WORD if turn == seen else ''}")

    policy = FakePolicy(script, renderer, stop_id=int(renderer.certificate.close_ids[-1]))
    config = AgentConfig(max_steps=turns + 1)
    return await AtroposAgent(policy, config=config, tokenizer=renderer, execute_tool=look).run(question)


@pytest.mark.parametrize("place", sorted(PLANTED))
async def test_a_planted_branch_is_certified_and_does_no_harm_until_it_is_taken(place):
    renderer = planted(place)
    assert renderer.certificate.bridge
    assert renderer.certificate.history_stable
    assert (await rollout(renderer, turns=5)).stop_reason is StopReason.FINAL_ANSWER


@pytest.mark.parametrize("turn", range(1, TURNS + 1))
async def test_a_branch_on_what_was_said_is_caught_in_that_turn(turn):
    result = await rollout(planted("the text itself"), said=turn)
    assert (result.stop_reason, result.error_type) == (StopReason.ERROR, "BridgeMismatch")
    assert result.num_steps == turn


@pytest.mark.parametrize("turn", range(1, TURNS))
async def test_a_branch_on_tool_output_is_caught_as_soon_as_it_is_taken(turn):
    result = await rollout(planted("the message before"), seen=turn)
    assert (result.error_type, result.num_steps) == ("BridgeMismatch", turn + 1)


async def test_a_branch_on_the_first_question_is_caught_at_once():
    result = await rollout(planted("the first question"), question=f"{WORD}, please")
    assert (result.error_type, result.num_steps) == ("BridgeMismatch", 1)


async def test_a_branch_on_a_middle_message_is_caught_by_the_end():
    assert (await rollout(planted("the middle"), seen=3)).stop_reason is StopReason.FINAL_ANSWER
    result = await rollout(planted("the middle"), said=5)
    assert result.error_type == "BridgeMismatch"


async def test_a_branch_that_changes_earlier_turns_alone_is_caught_by_the_end():
    result = await rollout(planted("earlier headers"), seen=TURNS)
    assert (result.error_type, result.num_steps) == ("BridgeMismatch", TURNS + 1)
    assert "assistant message 14" in str(result.error)


@pytest.mark.parametrize("turns", range(10, 20))
async def test_a_branch_on_the_number_of_messages_is_caught_by_the_end(turns):
    result = await rollout(planted("the number of messages"), turns=turns)
    assert (result.stop_reason, result.error_type) == (StopReason.ERROR, "BridgeMismatch")
    assert result.num_steps == (16 if turns >= 16 else turns + 1)


async def test_a_branch_at_the_end_of_a_long_conversation_is_caught_there():
    result = await rollout(planted("the end of a long one"))
    assert (result.error_type, result.num_steps) == ("BridgeMismatch", TURNS + 1)


async def test_a_window_that_is_refused_proves_nothing():
    result = await rollout(planted("a window"), question=f"{WORD}, please")
    assert result.stop_reason is StopReason.FINAL_ANSWER


@pytest.mark.parametrize("name", ["forgetting", "qwen3", "trimming", "open_think", "plain_close", "parts"])
async def test_a_template_that_rewrites_history_is_no_mismatch(name):
    renderer = Renderer(tokenizer_for(name), marks=HERMES_MARKS)
    assert (await rollout(renderer)).stop_reason is StopReason.FINAL_ANSWER


@pytest.mark.parametrize("hidden", [WORD, f"<think>a</think>{WORD}", f"{WORD} \n", f"{WORD}<|im_end|>"])
def test_a_branch_is_caught_however_the_text_ends(hidden):
    renderer = planted("the text itself")
    talk: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": hidden},
        OBSERVATION,
    ]
    with pytest.raises(BridgeMismatch, match="assistant message 1"):
        renderer.bridge(talk, renderer.encode(hidden), finish=FinishReason.STOP, turn=1)


@pytest.mark.parametrize(("place", "count"), [("the text itself", 1), ("earlier headers", 1)])
async def test_a_mismatch_can_be_counted_instead(place, count):
    result = await rollout(planted(place, "count"), said=TURNS, seen=TURNS)
    assert result.stop_reason is StopReason.FINAL_ANSWER
    assert result.metadata["notes"]["bridge_mismatch"] == count


def test_a_window_is_the_opening_and_the_last_exchanges():
    head: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    turns: list[Message] = []
    for number in range(5):
        turns += [{"role": "assistant", "content": f"{number}"}, OBSERVATION, OBSERVATION]
    assert window([*head, *turns]) == [*head, *turns[9:]]
    assert window([*head, *turns[:6]]) == [*head, *turns[:6]]
    assert window(head) == head


def test_the_cost_of_a_turn_does_not_grow_with_the_conversation():
    renderer = Renderer(tokenizer_for("chatml"), marks=HERMES_MARKS)
    sampled = renderer.encode("ok<|im_end|>")

    def cost(turns: int) -> float:
        turn: list[Message] = [{"role": "assistant", "content": "ok"}, OBSERVATION]
        talk: list[Message] = [{"role": "user", "content": "hello"}, *turn * turns]
        times = []
        for _ in range(20):
            started = time.process_time()
            for _ in range(20):
                renderer.bridge(talk, sampled, finish=FinishReason.STOP, turn=turns)
            times.append(time.process_time() - started)
        return min(times)

    assert cost(1000) < 3 * cost(5)
