"""A conversation whose template rewrites history is held as branches of what came before."""

import gc
import weakref

import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import AgentResult, StopReason
from tests.agent.test_agent import Echo
from tests.tokenizers_for_tests import CHATML, tokenizer_for

TURNS = 40
REWRITES_AN_EARLY_TURN = (
    "{{- '<|im_start|>system\\n' + (messages | length | string) + ' messages so far.<|im_end|>\\n' }}"
    + CHATML
)


def says(messages, step):
    text = f"<think>\nstep {step}: {'so ' * 30}\n</think>\n\n"
    return text + (render_call("echo", {"text": f"{step} " * 40}) if step < TURNS else "done")


async def played(name: str, mode: str, template: str | None = None) -> AgentResult:
    tokenizer = tokenizer_for(name)
    if template is not None:
        tokenizer.chat_template = template
    renderer = Renderer(tokenizer, marks=HERMES_MARKS, on_mismatch="count")
    policy = FakePolicy(says, renderer, stop_id=int(renderer.certificate.close_ids[0]))
    config = AgentConfig(history=mode, system_prompt="Be brief.", max_steps=TURNS)
    return await AtroposAgent(policy, ToolRegistry([Echo()]), config, renderer).run("count")


def held(result: AgentResult) -> int:
    return sum(len(sequence.own_ids) for sequence in result.sequences)


@pytest.mark.parametrize(
    ("name", "template"),
    [("strips_always", None), ("trimming", None), ("qwen3_full", None), ("chatml", REWRITES_AN_EARLY_TURN)],
)
async def test_forty_rewritten_turns_hold_less_than_three_times_the_tokens_of_append(name, template):
    grown = await played("chatml", "append")
    result = await played(name, "template", template)
    assert result.stop_reason is StopReason.FINAL_ANSWER, result.error
    assert result.num_steps == TURNS
    factor = held(result) / held(grown)
    assert factor < 3
    assert sum(int(sequence.mask.sum()) for sequence in result.sequences) == result.total_tokens


async def test_what_a_branch_shares_is_not_kept_a_second_time():
    result = await played("chatml", "template", REWRITES_AN_EARLY_TURN)
    assert len(result.sequences) == TURNS
    gone = weakref.ref(result.sequences[-1].token_ids)
    gc.collect()
    assert gone() is None
