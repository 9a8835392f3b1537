"""Twenty conversations with scripted assistants, over every shape of the scripted server: one truth.

What must be recorded is put together here from the tokenizer alone, turn by turn.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakeServer
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import AgentResult
from tests.agent.test_agent_wires import Echo
from tests.tokenizers_for_tests import tokenizer_for

TOKENIZER = tokenizer_for("chatml")
RENDERER = Renderer(TOKENIZER, marks=HERMES_MARKS)
END = "<|im_end|>"
STOP = TOKENIZER.convert_tokens_to_ids(END)
WIRES = tuple(wire for wire in Wire if wire is not Wire.IN_PROCESS)
THOUGHT = "<think>\nI weigh both options.\n</think>\n\n"


def call(text: str) -> str:
    return f'<tool_call>{{"name": "echo", "arguments": {{"text": "{text}"}}}}</tool_call>'


@dataclass(frozen=True)
class Talk:
    """What the assistant says, turn by turn; `cut` is the turn's limit in tokens where one is to bite."""

    name: str
    said: tuple[str, ...]
    system: str = "You use tools."
    task: str = "Do it."
    cut: int | None = None


TALKS = (
    Talk("one call", (call("a"), "done")),
    Talk("no system prompt", (call("a"), call("b"), "done"), system=""),
    Talk("eight turns", (*(call(f"page {n}") for n in range(7)), "The answer is 42.")),
    Talk("two calls at once", (call("a") + "\n" + call("b"), "both done")),
    Talk("reasoning before a call", (THOUGHT + call("a"), THOUGHT + "done")),
    Talk("reasoning in every turn", (*(THOUGHT + call(f"{n}") for n in range(4)), THOUGHT + "42")),
    Talk("text before a call", ("I look first. " + call("ls"), "It is there.")),
    Talk("white space at the ends", (f" \n {call('a')} \n\n", "\n\n  done  \n")),
    Talk("nothing but white space around reasoning", (f"\n{THOUGHT}\n{call('a')}\n", " done ")),
    Talk("other scripts", (call("naïve 漢字 🙂 строка"), "готово 🚀 完了"), task="Übersetze 漢字."),
    Talk("digits and code", (call("for i in range(10): print(i ** 2)"), "0 1 4 9 16 25 36 49 64 81")),
    Talk("a malformed call and its repair", ("<tool_call>{broken}</tool_call>", call("a"), "done")),
    Talk("an unclosed call", ('<tool_call>{"name": "echo"', call("a"), "done")),
    Talk("an unknown tool", ('<tool_call>{"name": "dig", "arguments": {}}</tool_call>', "no such tool")),
    Talk("control tokens spelled by a tool", (call("<|im_start|>system <|im_end|>"), "done")),
    Talk("a call inside reasoning", (f"<think>{call('a')}</think>{call('b')}", "done")),
    Talk("an empty answer", (call("a"), "")),
    Talk("cut by the limit", ("word " * 40, call("a"), "done"), cut=24),
    Talk("cut inside a call", (call("word " * 40), call("a"), "done"), cut=24),
    Talk("cut inside reasoning", ("<think>\n" + "word " * 40, call("a"), "done"), cut=24),
)


def encoded(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


async def recorded(talk: Talk, wire: Wire) -> AgentResult:
    def script(ask):
        return talk.said[min(ask.turn, len(talk.said)) - 1] if ask.session else "ok"

    async with FakeServer(
        script, RENDERER, wire=wire, stop_id=STOP, render=lambda messages: RENDERER.render(messages).text
    ) as server:
        policy = HttpPolicy(server.url)
        config = AgentConfig(system_prompt=talk.system, max_tokens=talk.cut or 400, max_repairs=5)
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), config, RENDERER)
        result = await agent.run(talk.task, rollout_id="r")
        await policy.aclose()
    return result


def truth(talk: Talk, result: AgentResult) -> tuple[list[int], list[bool]]:
    """Ids and mask of the whole, from the script and the observations that were shown."""
    opening = [{"role": "system", "content": talk.system}] if talk.system else []
    opening.append({"role": "user", "content": talk.task})
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}{END}\n" for m in opening)
    ids = encoded(f"{text}<|im_start|>assistant\n")
    mask = [False] * len(ids)
    for step, said in zip(result.steps, talk.said, strict=False):
        sampled = [*encoded(said), STOP]
        cut = talk.cut is not None and len(sampled) > talk.cut
        sampled = sampled[: talk.cut] if cut else sampled
        ids, mask = ids + sampled, mask + [True] * len(sampled)
        if not step.observation:
            break
        reasoning = "</think>" if cut and "<think>" in said else ""
        closing = f"{reasoning}{END}" if cut else ""
        between = f"{closing}\n<|im_start|>user\n{step.observation}{END}\n<|im_start|>assistant\n"
        between_ids = encoded(between)
        ids, mask = ids + between_ids, mask + [False] * len(between_ids)
    last = max(at for at, trained in enumerate(mask) if trained) + 1
    return ids[:last], mask[:last]


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.name)
@pytest.mark.parametrize("wire", WIRES)
async def test_the_record_is_the_truth(talk, wire):
    result = await recorded(talk, wire)
    ids, mask = truth(talk, result)
    data = result.trajectory_data
    assert data is not None
    assert data.mask.tolist() == mask
    assert data.token_ids.tolist() == ids
    assert result.error is None
    trained = [step.span.end - step.span.start for step in result.steps if step.span]
    assert sum(trained) == sum(mask)
    scored = [step for step in result.steps if step.completion.logprobs is not None]
    assert len(scored) == len(result.steps) or not (wire.takes_ids or wire is Wire.CHAT_IDS)
    known = np.zeros(len(mask), np.bool_)
    for step in scored:
        known[step.span.start : step.span.end] = True
    assert np.array_equal(~np.isnan(data.logprobs), known)


def test_there_are_twenty_and_they_differ():
    assert len({talk.name for talk in TALKS}) == len(TALKS) == 20
    assert {len(talk.said) for talk in TALKS} >= {2, 3, 5, 8}
