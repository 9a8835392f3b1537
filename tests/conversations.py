"""Conversations of every kind that a certificate tells apart, in other words than its probes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from atropos_agent.agent.history import History
from hypothesis import strategies as st

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import render_call
from atropos_agent.policy.protocol import Capabilities, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import AgentResult, Completion, Message, StopReason, ToolResult

CALL = render_call("look", {"page": 3})
THOUGHT = "<think>\nit must be on page 3\n</think>\n\n"
SAID = {
    "plain text": "It is on page 3.",
    "closed reasoning": f"{THOUGHT}It is on page 3.",
    "open reasoning": "<think>\nit must be on page 3, or else",
    "the end of a reasoning block": "it must be on page 3\n</think>\n\nPage 3.",
    "a tool call": f"I look.\n{CALL}",
    "reasoning and a tool call": f"{THOUGHT}I look.\n{CALL}",
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
CONVERSATIONS = st.lists(
    st.tuples(st.sampled_from(sorted(SAID)), st.sampled_from(sorted(ANSWERED))), min_size=1, max_size=7
)
CALLING = ("a tool call", "reasoning and a tool call", "the end of a reasoning block")
ROLLOUTS = st.lists(st.sampled_from(CALLING), min_size=1, max_size=6)
QUESTION: Message = {"role": "user", "content": "Where is it?"}


def check_prediction(renderer: Renderer, turns: Sequence[tuple[str, str]]) -> None:
    """In template mode this conversation has the predicted number of sequences; each token is trained
    once, in order."""
    history = History([QUESTION], renderer, "template")
    history.open(Capabilities(Wire.IN_PROCESS, "none", "none"))
    sampled: list[int] = []
    for number, (text, following) in enumerate([*turns, ("plain text", "")], 1):
        ids = np.concatenate([renderer.encode(SAID[text]), renderer.certificate.close_ids]).astype(np.int32)
        sampled += ids.tolist()
        completion = Completion(renderer.decode_completion(ids), ids)
        history.add_completion(number, completion)
        if following:
            history.add_observation(ANSWERED[following], completion, number)
    sequences = history.tracker.sequences()
    assert len(sequences) == renderer.certificate.branching.sequences([*turns, ("plain text", None)])
    assert [token for data in sequences for token in data.token_ids[data.mask].tolist()] == sampled


def check_rollout(renderer: Renderer, stop_id: int, kinds: Sequence[str], *, history: str) -> AgentResult:
    """A rollout of the agent with these kinds of text has the predicted number of sequences, loses no turn,
    and each turn ends as the template ends it, once."""
    if renderer.opens_reasoning:
        kinds = ["the end of a reasoning block"] * len(kinds)
    scripts = [SAID[kind] if "call" in kind else f"{SAID[kind]}\n{CALL}" for kind in kinds]
    scripts.append(SAID["the end of a reasoning block" if renderer.opens_reasoning else "plain text"])
    result, prompts = asyncio.run(_rollout(renderer, stop_id, scripts, history))
    assert result.stop_reason is StopReason.FINAL_ANSWER, result.error
    assert result.num_steps == len(scripts) == sum(len(data.spans) for data in result.sequences)
    turns = [*((kind, "an observation") for kind in kinds), ("plain text", None)]
    predicted = renderer.certificate.branching.sequences(turns) if history == "template" else 1
    assert len(result.sequences) == predicted
    for step, prompt in zip(result.steps, prompts[1:], strict=False):
        _check_end(renderer, stop_id, prompt, step.observation)
    return result


async def _rollout(renderer, stop_id, scripts, history) -> tuple[AgentResult, list[str]]:
    async def look(call, context):
        return ToolResult(success=True, output="page 3")

    policy = FakePolicy(scripts, renderer, stop_id=stop_id)
    config = AgentConfig(history=history, system_prompt="", max_steps=20)
    result = await AtroposAgent(policy, config=config, tokenizer=renderer, execute_tool=look).run("go")
    return result, [renderer.decode(request.prompt_ids) for request in policy.requests]


def _check_end(renderer: Renderer, stop_id: int, prompt: str, observation: str) -> None:
    """Before the observation stands what the template writes, its close or the stop that was sampled in
    place of it, and before that no other end of turn."""
    talk: list[Message] = [QUESTION, {"role": "assistant", "content": "mark"}]
    shown = renderer.text([*talk, {"role": "user", "content": observation}])
    header = shown.rpartition("mark")[2].partition(observation)[0]
    before, found, _ = prompt.rpartition(observation)
    assert found
    close, stop = renderer.certificate.close_text, renderer.decode(np.array([stop_id], np.int32))
    # A special token may eat the white space after it.
    ends = [renderer.decode(renderer.encode(end)) for end in (header, stop + header.removeprefix(close))]
    end = max((end for end in ends if before.endswith(end)), key=len)
    text = before.removesuffix(end).rstrip()
    assert not text.endswith((stop, close.strip() or stop))
