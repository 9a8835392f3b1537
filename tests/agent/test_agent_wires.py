"""One conversation over every wire: the same record wherever the server tells the same."""

import asyncio
from typing import Literal

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig, DebugSettings
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakeReply, FakeServer, Fault
from atropos_agent.toolset import ToolRegistry, ToolSchema
from atropos_agent.trajectory import (
    AgentResult,
    Break,
    BreakKind,
    FinishReason,
    LogprobProvenance,
    Provenance,
    StopReason,
    ToolResult,
)
from tests.tokenizers_for_tests import chatml_renderer, tokenizer_for

RENDERER = chatml_renderer()
STOP = int(RENDERER.certificate.close_ids[0])
TURNS = ["<think>\nfirst\n</think>\n" + render_call("echo", {"text": "ä"}), "<tool_call>{broken", "fertig ✓"]
WIRES = [
    Wire.LLAMA_CPP,
    Wire.SGLANG,
    Wire.VLLM,
    Wire.VLLM_GENERATE,
    Wire.CHAT_IDS,
    Wire.CHAT_LOGPROBS,
    Wire.TEXT,
    Wire.CHAT,
]
PROVENANCE = {Wire.CHAT_LOGPROBS: Provenance.FROM_LOGPROBS, Wire.TEXT: Provenance.RETOKENIZED} | {
    Wire.CHAT: Provenance.RETOKENIZED
}


class Echo:
    schema = ToolSchema.of("echo", "Echo.", {"text": {"type": "string"}}, ("text",))

    def is_available(self):
        return True, ""

    async def execute(self, arguments, context):
        return ToolResult(success=True, output=arguments["text"])


def server(wire: Wire, script=lambda ask: TURNS[min(ask.turn, 3) - 1]) -> FakeServer:
    return FakeServer(script, RENDERER, wire=wire, stop_id=STOP, render=lambda m: RENDERER.render(m).text)


async def converse(wire: Wire, **options) -> AgentResult:
    async with server(wire) as fake:
        policy = HttpPolicy(fake.url, **options)
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), tokenizer=RENDERER)
        result = await agent.run("do it", rollout_id="r")
        await policy.aclose()
    return result


@pytest.mark.parametrize("wire", WIRES)
async def test_every_wire_gives_the_same_ids_and_mask_and_says_where_they_are_from(wire):
    best, result = await converse(Wire.LLAMA_CPP), await converse(wire)
    data, exact = result.trajectory_data, best.trajectory_data
    assert result.stop_reason is StopReason.FINAL_ANSWER
    assert np.array_equal(data.token_ids, exact.token_ids)
    assert np.array_equal(data.mask, exact.mask)
    assert {span.provenance for span in data.spans} == {PROVENANCE.get(wire, Provenance.SAMPLED)}
    assert result.to_messages() == best.to_messages()


@pytest.mark.parametrize("wire", WIRES)
async def test_logprobs_are_those_of_the_server_or_absent(wire):
    best, result = await converse(Wire.LLAMA_CPP), await converse(wire)
    if wire in (Wire.TEXT, Wire.CHAT):
        assert np.isnan(result.trajectory_data.logprobs).all()
        assert {s.logprob_provenance for s in result.trajectory_data.spans} == {LogprobProvenance.ABSENT}
    else:
        assert np.array_equal(result.trajectory_data.logprobs, best.trajectory_data.logprobs, equal_nan=True)


async def test_bypassing_is_a_plain_chat_that_is_labelled_so():
    result = await converse(Wire.VLLM, debug=DebugSettings(bypass_managed_server=True))
    assert {span.provenance for span in result.trajectory_data.spans} == {Provenance.RETOKENIZED}


@pytest.mark.parametrize("wire", [Wire.LLAMA_CPP, Wire.SGLANG, Wire.VLLM, Wire.VLLM_GENERATE])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.HTML, "MalformedReply"),
        (Fault.CUT_BODY, "MalformedReply"),
        (Fault.MISSING_LOGPROB, "MalformedReply"),
        (Fault.MISSING_IDS, "MalformedReply"),
        (Fault.WRONG_PROMPT_USAGE, "MalformedReply"),
        (Fault.MODEL_NOT_FOUND, "ModelNotFound"),
        (Fault.CONTEXT_OVERFLOW, "ContextOverflow"),
        (Fault.BAD_REQUEST, "ServerRefused"),
    ],
)
async def test_a_fault_costs_one_rollout_and_keeps_its_earlier_steps(wire, fault, error):
    def script(ask):
        return fault if ask.session == "bad" and ask.turn >= 2 else TURNS[min(ask.turn, 3) - 1]

    async with server(wire, script) as fake:
        policy = HttpPolicy(fake.url)
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), AgentConfig(max_tokens=64), RENDERER)
        names = ["good", "bad", "fine"]
        good, bad, fine = await asyncio.gather(*(agent.run("do it", rollout_id=name) for name in names))
        await policy.aclose()
    assert (good.success, fine.success) == (True, True)
    assert (bad.success, bad.error_type) == (False, error)
    assert (len(bad.trajectory_data.spans), bad.num_steps) == (1, 1)


TRIMMING = Renderer(tokenizer_for("trimming"), marks=HERMES_MARKS)


@pytest.mark.parametrize("wire", [Wire.CHAT_IDS, Wire.CHAT_LOGPROBS, Wire.CHAT])
async def test_a_server_that_rewrites_history_opens_a_sequence_with_the_prompt_it_saw(wire):
    turns = ["<tool_call>{broken \n\n \n", "done"]

    async with FakeServer(
        lambda ask: turns[min(ask.turn, 2) - 1],
        TRIMMING,
        wire=wire,
        stop_id=int(TRIMMING.certificate.close_ids[0]),
        render=lambda messages: TRIMMING.render(messages).text,
    ) as fake:
        policy = HttpPolicy(fake.url)
        result = await AtroposAgent(policy, tokenizer=TRIMMING).run("do it", rollout_id="r")
        await policy.aclose()
    first, last = result.sequences
    assert last.spans[-1].start == result.steps[1].completion.usage_prompt_tokens
    assert TRIMMING.decode(last.token_ids).startswith(TRIMMING.render(result.prompt_messages).text)
    assert [span.step_number for sequence in (first, last) for span in sequence.spans] == [1, 2]
    assert result.breaks == (Break(2, BreakKind.TEMPLATE),)


async def two_turns(wire: Wire, render, script=("<tool_call>{broken", "done")) -> AgentResult:
    """A rollout with a server that renders the prompts by `render`."""
    async with FakeServer(
        lambda ask: script[min(ask.turn, 2) - 1], RENDERER, wire=wire, stop_id=STOP, render=render
    ) as fake:
        policy = HttpPolicy(fake.url)
        result = await AtroposAgent(policy, tokenizer=RENDERER).run("do it", rollout_id="r")
        await policy.aclose()
    return result


@pytest.mark.parametrize("wire", [Wire.CHAT_IDS, Wire.CHAT_LOGPROBS])
async def test_ids_that_the_server_makes_anew_of_the_same_text_are_told_apart(wire):
    text = "<tool_call>{broken"
    letters = [token for letter in text for token in RENDERER.encode(letter)]
    result = await two_turns(wire, RENDERER.text, (FakeReply(text, token_ids=[*letters, STOP]), "done"))
    assert result.breaks == (Break(2, BreakKind.RETOKENISATION),)
    first, last = result.sequences
    assert first.token_ids[first.mask].tolist() == [*letters, STOP]
    asked = last.token_ids[: last.spans[0].start]
    assert np.array_equal(asked, RENDERER.encode(RENDERER.decode(asked)))


async def test_a_prompt_that_is_neither_ours_nor_the_templates_is_called_other():
    result = await two_turns(Wire.CHAT_IDS, lambda messages: RENDERER.text(messages[-1:]))
    assert result.breaks == (Break(2, BreakKind.OTHER),)
    assert [span.step_number for data in result.sequences for span in data.spans] == [1, 2]


REWRITTEN = [
    "<tool_call>{broken \n\n \n",
    f"<think>\nhm\n</think>\n{render_call('echo', {'text': 'ä'})}",
    "  <tool_call>{broken",
    "done",
]


async def rewritten(name: str, wire: Wire, history: Literal["append", "template"]) -> AgentResult:
    """A rollout with a template that rewrites what a policy says."""
    renderer = Renderer(tokenizer_for(name), marks=HERMES_MARKS)
    script = ["hm\n</think>\n" * renderer.opens_reasoning + text for text in REWRITTEN]
    async with FakeServer(
        lambda ask: script[min(ask.turn, 4) - 1],
        renderer,
        wire=wire,
        stop_id=tokenizer_for(name).eos_token_id,
        render=renderer.text,
    ) as fake:
        policy = HttpPolicy(fake.url, wire=wire)
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), AgentConfig(history=history), renderer)
        result = await agent.run("do it", rollout_id="r")
        await policy.aclose()
    return result


@pytest.mark.parametrize(
    ("wire", "history"),
    [
        *[(wire, "append") for wire in (Wire.CHAT_LOGPROBS, Wire.CHAT)],
        *[(wire, "template") for wire in WIRES],
    ],
)
@pytest.mark.parametrize("name", ["trimming", "qwen3", "open_think", "gpt_oss"])
async def test_a_history_that_is_rewritten_gives_the_sequences_of_a_server_that_tells_its_prompts(
    name, wire, history
):
    told, result = await rewritten(name, Wire.CHAT_IDS, "append"), await rewritten(name, wire, history)
    # Its stop token is not that of history: it stays where we write the prompt, or where it is not named.
    kept = name == "gpt_oss" and wire is not Wire.CHAT_IDS
    assert len(told.sequences) > 1
    assert result.breaks == (() if kept else told.breaks)
    assert result.num_steps == told.num_steps == 4
    if not kept:
        for data, exact in zip(result.sequences, told.sequences, strict=True):
            assert np.array_equal(data.token_ids, exact.token_ids)
            assert np.array_equal(data.mask, exact.mask)


@pytest.mark.parametrize("wire", WIRES)
async def test_reasoning_that_was_cut_is_closed_on_every_wire(wire):
    cut = FakeReply("<think>so " + render_call("echo", {"text": "ä"}), FinishReason.LENGTH)
    result = await two_turns(wire, RENDERER.text, (cut, "done"))
    (data,) = result.sequences
    end = data.spans[0].end
    assert RENDERER.decode(data.token_ids[end : end + 2]) == "</think><|im_end|>"
    assert not data.mask[end : data.spans[1].start].any()
    assert result.metadata["notes"]["reasoning_closed"] == 1


async def test_logprobs_of_a_prompt_we_do_not_know_are_dropped():
    def other(messages):
        return RENDERER.render([{"role": "system", "content": "injected"}, *messages]).text

    script = lambda ask: TURNS[min(ask.turn, 3) - 1]  # noqa: E731
    async with FakeServer(script, RENDERER, wire=Wire.CHAT_LOGPROBS, stop_id=STOP, render=other) as fake:
        policy = HttpPolicy(fake.url)
        result = await AtroposAgent(policy, ToolRegistry([Echo()]), tokenizer=RENDERER).run(
            "do it", rollout_id="r"
        )
        await policy.aclose()
    assert result.metadata["notes"]["prompt_differs"] == 3
    assert all(np.isnan(sequence.logprobs).all() for sequence in result.sequences)
