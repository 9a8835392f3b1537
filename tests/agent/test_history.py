"""Both ways to go on after a completion: every turn is kept, every sampled token is trained once."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.errors import ServerUnreachable
from atropos_agent.policy import Wire
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy, FakeReply
from atropos_agent.trajectory import AgentResult, Break, BreakKind, FinishReason, StopReason, ToolResult
from tests.rollouts import ANY_SPEED
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

CALL = render_call("look", {})
THOUGHT = "<think>\nhm\n</think>\n\n"
TEXTS = [
    CALL,
    THOUGHT + CALL,
    f"  {CALL} \n\n",
    "<tool_call>{broken",
    f"{CALL}é\ufffd",
    f"<think>so {CALL}",
]
ENDS = ["stop", "unreported", "length"]
SPELLINGS = ["whole", "letters", "broken"]
TURNS = st.lists(
    st.tuples(st.sampled_from(TEXTS), st.sampled_from(ENDS), st.sampled_from(SPELLINGS)),
    min_size=1,
    max_size=5,
)
# What a policy stops with there is not what history shows.
OTHER_CLOSE = {"end_of_text", "gpt_oss", "plain_close", "straddled_close", "break_before_close"}
ONE_MESSAGE_ONLY = "one_turn"
Mode = Literal["append", "template"]


@cache
def renderer_for(name: str) -> Renderer:
    return Renderer(tokenizer_for(name), marks=HERMES_MARKS)


async def look(call, context):
    return ToolResult(success=True, output="nothing new")


def reply(name: str, text: str, end: str, spelling: str = "whole") -> FakeReply:
    """`text` as a policy writes it there: where the prompt has opened the reasoning, it goes on in it.

    Spelled in `letters`, its ids are not those that encoding gives; `broken`, it ends inside a character.
    """
    renderer = renderer_for(name)
    if renderer.opens_reasoning:
        text = text.removeprefix("<think>") if text.startswith("<think>") else f"hm\n</think>\n\n{text}"
    pieces = [text] if spelling == "whole" else list(text)
    ids = [token for piece in pieces for token in renderer.encode(piece).tolist()]
    if spelling == "broken":
        ids.append(renderer.encode("\u0b95").tolist()[0])
    if end == "stop":
        ids.append(tokenizer_for(name).eos_token_id)
    return FakeReply(text, FinishReason.LENGTH if end == "length" else FinishReason.STOP, token_ids=ids)


async def converse(name: str, mode: Mode, turns, **config) -> tuple[AgentResult, FakePolicy, Renderer]:
    """A rollout of the scripted `turns` (text, end) and a last word."""
    renderer = renderer_for(name)
    scripts = [reply(name, *turn) for turn in [*turns, ("done", "stop")]]
    policy = FakePolicy(scripts, renderer, stop_id=tokenizer_for(name).eos_token_id)
    settings = AgentConfig(**{"history": mode, "system_prompt": "", "max_repairs": 99, **config})
    agent = AtroposAgent(policy, None, settings, renderer, execute_tool=look)
    return await agent.run("do it"), policy, renderer


def trained(result: AgentResult) -> list[int]:
    return [token for data in result.sequences for token in data.token_ids[data.mask].tolist()]


def sampled(result: AgentResult) -> list[int]:
    return [token for step in result.steps for token in step.completion.token_ids.tolist()]


def check_record(result: AgentResult, policy: FakePolicy) -> None:
    assert trained(result) == sampled(result)
    assert sum(int(data.mask.sum()) for data in result.sequences) == result.total_tokens
    spans = [(index, span) for index, data in enumerate(result.sequences) for span in data.spans]
    assert [span.step_number for _, span in spans] == list(range(1, result.num_steps + 1))
    for (index, span), step, request in zip(spans, result.steps, policy.requests, strict=True):
        data = result.sequences[index]
        assert (step.sequence_index, step.span) == (index, span)
        assert np.array_equal(data.token_ids[: span.start], request.prompt_ids)
        assert np.array_equal(data.token_ids[span.start : span.end], step.completion.token_ids)
        assert np.array_equal(data.logprobs[span.start : span.end], step.completion.logprobs)
    assert [found.step_number for found in result.breaks] == [
        data.spans[0].step_number for data in result.sequences[1:]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["append", "template"])
@pytest.mark.parametrize("name", TEMPLATES)
@settings(ANY_SPEED, max_examples=10)
@given(turns=TURNS)
def test_every_turn_is_kept_and_every_sampled_token_trained_once(name, mode, turns):
    result, policy, renderer = asyncio.run(converse(name, mode, turns))
    check_record(result, policy)
    certificate = renderer.certificate
    if name == ONE_MESSAGE_ONLY or (mode == "append" and not certificate.bridge):
        assert (result.num_steps, result.error_type) == (1, "RenderError")
    else:
        assert result.num_steps == len(turns) + 1
    if mode == "append" or certificate.history_stable:
        assert len(result.sequences) == 1
    assert {found.kind for found in result.breaks} <= {BreakKind.TEMPLATE}


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - OTHER_CLOSE - {ONE_MESSAGE_ONLY}))
@settings(ANY_SPEED, max_examples=10)
@given(turns=TURNS)
def test_in_template_mode_each_prompt_is_what_the_template_makes_of_the_messages(name, turns):
    result, policy, renderer = asyncio.run(converse(name, "template", turns))
    assert result.stop_reason is StopReason.FINAL_ANSWER
    for request in policy.requests:
        assert renderer.decode(request.prompt_ids) == renderer.text(request.messages)


@pytest.mark.parametrize("name", ["chatml", "qwen3", "trimming", "llama"])
@settings(ANY_SPEED, max_examples=10)
@given(turns=TURNS)
def test_a_sequence_begins_exactly_where_the_template_rewrites_what_was_shown(name, turns):
    result, policy, renderer = asyncio.run(converse(name, "template", turns))
    shown = [renderer.text(request.messages) for request in policy.requests]
    told = [request.messages[-2]["content"] for request in policy.requests[1:]]
    close = renderer.certificate.close_text
    rewritten = [
        number
        for number, (before, after, text) in enumerate(zip(shown, shown[1:], told, strict=False), 2)
        if not after.startswith(f"{before}{text}{close}")
    ]
    assert [found.step_number for found in result.breaks] == rewritten


@pytest.mark.parametrize(
    ("name", "breaks"), [("depends_on_text", ()), ("depends_on_turn", (Break(4, BreakKind.TEMPLATE),))]
)
async def test_a_template_without_a_bridge_is_followed_while_its_text_only_grows(name, breaks):
    turns = [(CALL, "stop"), (CALL, "length"), (CALL, "stop")]
    result, policy, renderer = await converse(name, "template", turns)
    assert not renderer.certificate.bridge
    assert (result.success, result.breaks) == (True, breaks)
    check_record(result, policy)


async def test_a_branch_that_no_probe_holds_begins_another_sequence_where_append_mode_ends():
    tokenizer = tokenizer_for("chatml")
    noted = "m.content + (' (noted)' if 'xyzzy' in m.content else '')"
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content", noted)
    renderer = Renderer(tokenizer, marks=HERMES_MARKS)
    assert renderer.certificate.history_stable
    for mode, breaks, error in (
        ("append", (), "BridgeMismatch"),
        ("template", (Break(3, BreakKind.TEMPLATE),), None),
    ):
        policy = FakePolicy([CALL, f"xyzzy {CALL}", "done"], renderer, stop_id=tokenizer.eos_token_id)
        config = AgentConfig(history=mode)
        result = await AtroposAgent(policy, None, config, renderer, execute_tool=look).run("do it")
        check_record(result, policy)
        assert (result.breaks, result.error_type) == (breaks, error)


@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.CHAT_LOGPROBS])
async def test_a_server_that_renders_the_prompts_needs_no_bridge(wire):
    renderer = renderer_for("depends_on_text")
    policy = FakePolicy([CALL, "done"], renderer, stop_id=renderer.certificate.close_ids[0], wire=wire)
    result = await AtroposAgent(policy, None, None, renderer, execute_tool=look).run("do it")
    (data,) = result.sequences
    assert trained(result) == sampled(result)
    asked = data.token_ids[: data.spans[1].start]
    assert renderer.decode(asked) == renderer.text(policy.requests[1].messages)


@pytest.mark.parametrize("mode", ["append", "template"])
async def test_a_server_that_renders_the_prompts_never_shows_the_stop_token_that_was_sampled(mode):
    renderer, stop = renderer_for("gpt_oss"), tokenizer_for("gpt_oss").eos_token_id
    policy = FakePolicy([CALL, "done"], renderer, stop_id=stop, wire=Wire.CHAT_LOGPROBS)
    config = AgentConfig(history=mode)
    result = await AtroposAgent(policy, None, config, renderer, execute_tool=look).run("do it")
    first, last = result.sequences
    assert first.tokens[-1] == last.tokens[-1] == stop
    asked = last.token_ids[: last.spans[0].start]
    assert renderer.decode(asked) == renderer.text(policy.requests[1].messages)
    assert result.breaks == (Break(2, BreakKind.TEMPLATE),)


@pytest.mark.parametrize(
    ("name", "mode"), [("chatml", "append"), ("chatml", "template"), ("depends_on_text", "template")]
)
async def test_reasoning_that_was_cut_is_closed_and_the_closing_is_not_trained(name, mode):
    cut = f"<think>so {CALL}"
    result, policy, renderer = await converse(name, mode, [(cut, "length")])
    (data,) = result.sequences
    end = data.spans[0].end
    assert renderer.decode(data.token_ids[end : end + 2]) == "</think><|im_end|>"
    assert not data.mask[end : end + 2].any()
    assert result.steps[0].assistant_message == cut
    assert policy.requests[1].messages[-2]["content"] == cut + "</think>"
    assert result.metadata["notes"] == {"reasoning_closed": 1}


@pytest.mark.parametrize(("name", "first"), [("strips_always", THOUGHT + CALL), ("strips_at_once", CALL)])
async def test_closed_reasoning_is_noted_also_where_a_sequence_begins_right_after_it(name, first):
    cut = f"<think>so {CALL}"
    result, policy, _ = await converse(name, "template", [(first, "stop"), (cut, "length")])
    assert [found.step_number for found in result.breaks] == [3]
    assert policy.requests[2].messages[-2]["content"] == cut + "</think>"
    assert result.metadata["notes"] == {"reasoning_closed": 1}


@pytest.mark.parametrize("mode", ["append", "template"])
async def test_a_stop_token_that_history_shows_otherwise_stays_and_is_no_break(mode):
    result, policy, _ = await converse("gpt_oss", mode, [(CALL, "stop"), (CALL, "stop")])
    check_record(result, policy)
    assert len(result.sequences) == 1
    assert result.metadata["notes"] == {"foreign_close": 2}


@pytest.mark.parametrize("mode", ["append", "template"])
@pytest.mark.parametrize(
    ("last", "config", "reason"),
    [
        (("done", "stop"), {}, StopReason.FINAL_ANSWER),
        (("", "stop"), {}, StopReason.FINAL_ANSWER),
        (("", "unreported"), {}, StopReason.FINAL_ANSWER),
        (("", "length"), {}, StopReason.TRUNCATED),
        (("<think>so", "length"), {}, StopReason.TRUNCATED),
        ((CALL, "stop"), {"max_steps": 3}, StopReason.MAX_STEPS),
        ((CALL, "stop"), {"max_tool_calls": 2}, StopReason.MAX_TOOL_CALLS),
        ((CALL, "stop"), {"max_total_tokens": 120}, StopReason.MAX_TOKENS),
    ],
)
async def test_whatever_ends_a_rollout_keeps_its_earlier_turns(mode, last, config, reason):
    padded = f" {CALL} \n"
    result, policy, _ = await converse("trimming", mode, [(padded, "stop"), (padded, "stop"), last], **config)
    assert result.stop_reason is reason
    check_record(result, policy)
    assert [len(data.spans) for data in result.sequences] == ([3] if mode == "append" else [1, 1, 1])


async def in_template_mode(scripts, **policy) -> tuple[AgentResult, FakePolicy, Renderer]:
    """A rollout with a template that trims."""
    renderer = renderer_for("trimming")
    fake = FakePolicy(scripts, renderer, stop_id=renderer.certificate.close_ids[0], **policy)
    agent = AtroposAgent(fake, None, AgentConfig(history="template"), renderer, execute_tool=look)
    return await agent.run("do it"), fake, renderer


async def test_a_prompt_that_was_never_answered_gives_no_sequence():
    result, _, _ = await in_template_mode([f"{CALL} \n", ServerUnreachable("gone")])
    assert (result.error_type, len(result.sequences), result.breaks) == ("ServerUnreachable", 1, ())


@pytest.mark.parametrize("wire", [Wire.TEXT, Wire.CHAT, Wire.CHAT_LOGPROBS])
async def test_template_mode_needs_no_ids_from_the_server(wire):
    result, policy, renderer = await in_template_mode([f"{CALL} \n", "done"], wire=wire)
    assert result.breaks == (Break(2, BreakKind.TEMPLATE),)
    assert renderer.decode(np.array(trained(result), np.int32)) == f"{CALL} \n<|im_end|>done<|im_end|>"
    last = result.sequences[1]
    prompt = renderer.decode(last.token_ids[: last.spans[0].start])
    assert prompt == renderer.text(policy.requests[1].messages)
