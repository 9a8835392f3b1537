"""In template mode a conversation falls into as many sequences as its template's certificate predicts."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atropos_agent.agent import AtroposAgent
from atropos_agent.agent.history import History
from atropos_agent.config import AgentConfig
from atropos_agent.parser import render_call
from atropos_agent.policy.protocol import Capabilities, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.renderer.probes import CORE_FOLLOWINGS, TEXTS
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import Completion, Message, StopReason, ToolResult
from tests.rollouts import ANY_SPEED
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

UNPREDICTED = {"forgetting", "depends_on_text", "depends_on_turn", "one_turn"}
THOUGHT = "<think>\nit must be on page 3\n</think>\n\n"
# Of each kind of text and of what follows it, another than the probes hold.
SAID = {
    "plain text": "It is on page 3.",
    "closed reasoning": f"{THOUGHT}It is on page 3.",
    "open reasoning": "<think>\nit must be on page 3, or else",
    "the end of a reasoning block": "it must be on page 3\n</think>\n\nPage 3.",
    "a tool call": f"I look.\n{render_call('look', {'page': 3})}",
    "reasoning and a tool call": f"{THOUGHT}I look.\n{render_call('look', {'page': 3})}",
    "a closing tag spelled out": "</tool_call> ends a call.",
    "leading white space": "\n  It is on page 3.",
    "trailing white space": "It is on page 3.\n\n",
    "other scripts": "ça: 语言 🚀 done é",
}
ANSWERED = {
    "an observation": '<tool_response>{"success": true, "output": "page 3"}</tool_response>',
    "a real user turn": "Then count what is on it.",
    "an unwrapped repair text": "No JSON object. Please write the call again.",
}
CONVERSATION = st.lists(
    st.tuples(st.sampled_from(sorted(SAID)), st.sampled_from(sorted(ANSWERED))), min_size=1, max_size=7
)


@cache
def renderer_for(name: str) -> Renderer:
    return Renderer(tokenizer_for(name))


def converse(name: str, turns) -> tuple[History, list[int]]:
    """A conversation of these kinds, history as the template has it, and the number of sequences."""
    renderer = renderer_for(name)
    opening: list[Message] = [{"role": "user", "content": "Where is it?"}]
    history = History(opening, renderer, "template")
    history.open(Capabilities(Wire.IN_PROCESS, "none", "none"))
    sampled: list[int] = []
    for number, (text, following) in enumerate([*turns, ("plain text", "")], 1):
        ids = np.concatenate([renderer.encode(SAID[text]), renderer.certificate.close_ids]).astype(np.int32)
        sampled += ids.tolist()
        completion = Completion(renderer.decode_completion(ids), ids)
        history.add_completion(number, completion)
        if following:
            history.add_observation(ANSWERED[following], completion, number)
    return history, sampled


def test_every_kind_is_spoken():
    assert SAID.keys() == TEXTS.keys()
    assert ANSWERED.keys() == {*CORE_FOLLOWINGS}


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - UNPREDICTED))
@settings(ANY_SPEED, max_examples=30)
@given(turns=CONVERSATION)
def test_a_conversation_has_as_many_sequences_as_predicted(name, turns):
    history, sampled = converse(name, turns)
    sequences = history.tracker.sequences()
    predicted = renderer_for(name).certificate.branching.sequences([*turns, ("plain text", None)])
    assert len(sequences) == predicted
    assert [token for data in sequences for token in data.token_ids[data.mask].tolist()] == sampled


def test_what_cannot_be_predicted_says_so():
    unknown = {name for name in TEMPLATES if not renderer_for(name).certificate.branching.predictable}
    assert unknown == UNPREDICTED
    assert renderer_for("forgetting").certificate.branching.sequences([("plain text", None)]) is None


ROLLOUT = {
    "chatml": 1,
    "trimming": 2,
    "strips_at_once": 3,
    "strips_always": 2,
    "qwen3": 2,
    "qwen3_full": 1,
    "empty_think": 3,
}


@pytest.mark.parametrize(("name", "sequences"), ROLLOUT.items())
def test_the_prediction_of_a_known_conversation(name, sequences):
    turns = [
        ("a tool call", "an observation"),
        ("reasoning and a tool call", "an observation"),
        ("trailing white space", "an observation"),
        ("reasoning and a tool call", "an observation"),
        ("plain text", None),
    ]
    assert renderer_for(name).certificate.branching.sequences(turns) == sequences


def test_reasoning_that_survives_observations_goes_at_once_at_the_next_question():
    turns = [("reasoning and a tool call", "an observation")] * 3
    predicted = renderer_for("qwen3_full").certificate.branching.sequences
    assert predicted([*turns, ("plain text", None)]) == 1
    assert predicted([*turns, ("closed reasoning", "a real user turn"), ("plain text", None)]) == 2


AGENT_KINDS = ("a tool call", "reasoning and a tool call", "the end of a reasoning block")


@pytest.mark.parametrize("mode", ["append", "template"])
@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - UNPREDICTED))
@settings(ANY_SPEED, max_examples=8)
@given(kinds=st.lists(st.sampled_from(AGENT_KINDS), min_size=1, max_size=6))
def test_a_rollout_has_as_many_sequences_as_predicted_and_each_turn_ends_once(name, mode, kinds):
    renderer = renderer_for(name)
    call = render_call("look", {"page": 7})
    if renderer.opens_reasoning:
        kinds = ["the end of a reasoning block"] * len(kinds)
    scripts = [SAID[kind] if "call" in kind else f"{SAID[kind]}\n{call}" for kind in kinds]
    result, prompts = asyncio.run(_rollout(renderer, tokenizer_for(name).eos_token_id, scripts, mode))
    assert result.stop_reason is StopReason.FINAL_ANSWER
    assert result.num_steps == len(kinds) + 1
    last = "the end of a reasoning block" if renderer.opens_reasoning else "plain text"
    turns = [*((kind, "an observation") for kind in kinds), (last, None)]
    predicted = renderer.certificate.branching.sequences(turns) if mode == "template" else 1
    assert len(result.sequences) == predicted
    for step, prompt in zip(result.steps, prompts[1:], strict=False):
        _check_close(renderer, prompt, step.observation)


async def _rollout(renderer, stop_id, scripts, mode):
    async def look(call):
        return ToolResult(success=True, output="page 7")

    policy = FakePolicy(
        [*scripts, "</think>\n\nDone." if renderer.opens_reasoning else "Done."], renderer, stop_id=stop_id
    )
    config = AgentConfig(history=mode, system_prompt="", max_steps=20)
    result = await AtroposAgent(policy, config=config, tokenizer=renderer, execute_tool=look).run("go")
    return result, [renderer.decode(request.prompt_ids) for request in policy.requests]


def _check_close(renderer: Renderer, prompt: str, observation: str) -> None:
    """Between the assistant's text and the observation stands what the template writes, and once."""
    talk: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "mark"}]
    shown = renderer.text([*talk, {"role": "user", "content": observation}])
    header = shown.rpartition("mark")[2].partition(observation)[0]
    before, found, _ = prompt.rpartition(observation)
    assert found
    close = renderer.certificate.close_text
    stops = [renderer.decode(np.array([token], np.int32)) for token in renderer.stop_ids]
    ends = [header, *(header.replace(close, stop, 1) for stop in stops if close)]
    assert before.endswith(tuple(ends))
    text = next(before.removesuffix(end) for end in ends if before.endswith(end))
    assert not text.rstrip().endswith((*stops, *([close.strip()] if close else [])))
