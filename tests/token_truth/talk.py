"""Conversations with a real server, kept twice: as this package records them, and as they went by wire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from atropos_agent.agent import conversation as shown
from atropos_agent.agent.tokens import resolve_tokens
from atropos_agent.policy import HttpPolicy, RequestInfo, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import Completion, Message, SamplingParams, SequenceData
from tests.recording_proxy import Exchange, RecordingProxy
from tests.token_truth.scripted_turns import CONVERSATIONS, Conversation

MAX_TOKENS = 48


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """One conversation: completions and exchanges by turn, and the training sequences that came of it."""

    conversation: Conversation
    completions: Sequence[Completion]
    exchanges: Sequence[Exchange]
    messages: Sequence[Message]
    sequences: Sequence[SequenceData]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """All conversations with one server over one wire."""

    wire: Wire
    renderer: Renderer
    talks: Sequence[Talk]


async def record(url: str, wire: Wire, renderer: Renderer) -> Recorded:
    """Hold all conversations at once with the server at `url`, through a proxy that keeps every exchange."""
    async with RecordingProxy(url) as proxy, HttpPolicy(proxy.url, wire=wire) as policy:
        capabilities = await policy.probe()
        assert capabilities.wire is wire
        if capabilities.stop_ids:
            renderer = renderer.with_stop_ids(capabilities.stop_ids)
        talks = await asyncio.gather(
            *(_talk(policy, renderer, proxy, conversation) for conversation in CONVERSATIONS)
        )
    return Recorded(wire, renderer, talks)


async def _talk(
    policy: HttpPolicy, renderer: Renderer, proxy: RecordingProxy, conversation: Conversation
) -> Talk:
    history = shown.Conversation(conversation.opening, renderer, "append")
    history.open(await policy.probe())
    completions: list[Completion] = []
    answers = conversation.answers(renderer.control_tokens)
    for number, answer in enumerate([*answers, None], 1):
        prompt = history.tracker.prompt
        prompt.messages = history.messages
        sampling = SamplingParams(max_tokens=MAX_TOKENS, seed=number)
        request = RequestInfo(conversation.name, number)
        completion = resolve_tokens(
            await policy.complete(prompt, sampling, request=request), history.renderer
        )
        completion = history.with_its_prompt(completion)
        history.add_completion(number, completion)
        completions.append(completion)
        if answer is not None:
            history.add_following([{"role": "user", "content": answer}], completion, number)
    history.check()
    exchanges = [exchange for exchange in proxy.exchanges if unquote(exchange.session) == conversation.name]
    return Talk(conversation, completions, exchanges, history.messages, history.tracker.sequences())
