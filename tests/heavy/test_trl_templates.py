"""The chat templates that TRL ships: each certified, predicted, and followed through whole rollouts.

The ids after a turn are those of the hand-written renderers of `renderers`, their thinking retention `all`.
Whatever differs is listed with its reason, and only that.
"""

from __future__ import annotations

from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import renderers
from hypothesis import given, settings

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import FinishReason, Message, ToolSchema
from tests.conversations import CONVERSATIONS, ROLLOUTS, check_prediction, check_rollout
from tests.family_tokenizers import family_tokenizer
from tests.renderer.tool_templates import call, calling, result
from tests.renderers_oracle import Pair
from tests.rollouts import ANY_SPEED

TRL = find_spec("trl")
if TRL is None or TRL.origin is None:
    raise ModuleNotFoundError("trl is not installed: pip install --no-deps trl")
TEMPLATES = {path.stem: path for path in (Path(TRL.origin).parent / "chat_templates").glob("*.jinja")}
LOOK = ToolSchema.of("look", "Looks a page up.", {"page": {"type": "string", "description": "its number"}})
COMPARED = {
    "deepseek_r1_distill": ("DeepSeekR1", {}),
    "deepseekv3": ("DeepSeekR1", {}),
    "gemma4_v5": ("Gemma4", {}),
    "glm4moe": ("GLM45", {}),
    "llama3_2": ("Llama3", {"date_string": "26 Jul 2024"}),
    "nemotron_3_5_lightning": ("Nemotron35", {}),
    "nemotron_3_nano": ("Nemotron3", {}),
    "nemotron_3_super": ("Nemotron3", {}),
    "nemotron_3_ultra": ("Nemotron3Ultra", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3_5_nothink": ("Qwen35", {"enable_thinking": False}),
    "qwen3_5_think": ("Qwen35", {"enable_thinking": True}),
    "qwen3_6": ("Qwen36", {}),
    "qwen3_8": ("Qwen38", {}),
    "qwen3_instruct_2507": ("Qwen3", {}),
    "qwen3_vl": ("Qwen3VL", {}),
}
NOT_COMPARED = {
    "Default": "has no bridge of its own",
    "GptOss": "loads its vocabulary from the network",
}
NO_TEMPLATE = {
    "DeepSeekV3",
    "DeepSeekV4",
    "GLM5",
    "GLM51",
    "GLM53",
    "Hy3",
    "Inkling",
    "KimiK2",
    "KimiK25",
    "LagunaM1",
    "LagunaS21",
    "LagunaXS2",
    "LagunaXS21",
    "MiniMaxM2",
    "PrimeQwen3",
}
"""TRL ships no chat template of these."""
NO_REASONING = "they know no <think> in this family; we close one that was cut, as everywhere"
UNTHOUGHT = "they take a GLM text without <think> for one that is still reasoning"
CUT = "they end a turn that was cut with <|endoftext|>; the template ends it with the next header alone"
DIFFERENCES = [
    ("gemma4_v5", "reasoning, cut, then *: other ids", NO_REASONING),
    ("glm4moe", "plain text, stopped by *: they do not bridge", UNTHOUGHT),
    ("glm4moe", "other scripts, stopped by *: they do not bridge", UNTHOUGHT),
    ("glm4moe", "*, cut, then *: other ids", CUT),
    ("llama3_2", "reasoning, cut, then *: other ids", NO_REASONING),
]


@cache
def certified(name: str) -> tuple[Renderer, list[int]]:
    tokenizer, stops = family_tokenizer(name, TEMPLATES[name].read_text())
    return Renderer(tokenizer, stop_ids=stops, marks=HERMES_MARKS), stops


def test_trl_ships_templates():
    assert len(TEMPLATES) > 40


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_is_certified_for_append(name):
    certificate = certified(name)[0].certificate
    assert certificate.bridge, certificate.reasons
    assert certificate.history_stable or certificate.reasons
    assert certificate.branching.predictable


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(ANY_SPEED, max_examples=6)
@given(turns=CONVERSATIONS)
def test_a_conversation_has_as_many_sequences_as_predicted(name, turns):
    check_prediction(certified(name)[0], turns)


@pytest.mark.parametrize("history", ["append", "template"])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(ANY_SPEED, max_examples=2)
@given(kinds=ROLLOUTS)
def test_a_rollout_loses_no_turn_and_each_ends_once(name, history, kinds):
    renderer, stops = certified(name)
    for stop_id in stops:
        check_rollout(renderer, stop_id, kinds, history=history)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_renders_as_in_transformers(name):
    tokenizer, _ = family_tokenizer(name, TEMPLATES[name].read_text())
    renderer = Renderer(tokenizer).with_tools([LOOK])
    chat = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On <b>3</b>."}]
    chat.append({"role": "user", "content": "ça 漢字?"})
    in_parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in chat]
    given = in_parts if renderer.certificate.habits.content_as_parts else chat
    assert renderer.text(chat) == tokenizer.apply_chat_template(
        given, tools=[LOOK.to_dict()], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_what_is_appended_after_calls_is_what_the_template_renders(name):
    renderer = certified(name)[0].with_tools([LOOK])
    tools = renderer.certificate.tool_bridge
    if not tools.after_calls:
        assert any(reason.startswith("after calls") for reason in tools.reasons)
        return
    talk: list[Message] = [{"role": "user", "content": "Where is it?"}]
    for number in (1, 2, 3):
        made = call(number, {"page": f"p{number}"})
        talk += [calling([made]), result(made, f"it is not on p{number}")]
        rendered = renderer.text(talk)
        before, _, rest = rendered.rpartition(f"p{number}")[0].rpartition(f"p{number}")
        sampled = renderer.encode(f"p{number}{rest.partition(tools.calls_end)[0]}{tools.calls_end}")
        bridge = renderer.bridge(talk, sampled, finish=FinishReason.STOP, turn=number)
        assert before + renderer.decode(sampled) + bridge.text == rendered
    assert renderer.check_bridges(talk) == ()


def test_every_renderer_of_theirs_is_compared_or_said_not_to_be():
    theirs = {name.removesuffix("Renderer") for name in dir(renderers) if name.endswith("Renderer")}
    theirs -= {"", "Multimodal"}
    assert theirs == {name for name, _ in COMPARED.values()} | NOT_COMPARED.keys() | NO_TEMPLATE


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_only_what_is_listed_differs(name):
    theirs, settings = COMPARED[name]
    differing = list(Pair(name, TEMPLATES[name].read_text(), theirs, settings).differences())
    listed = [pattern for template, pattern, _ in DIFFERENCES if template == name]
    assert [case for case in differing if not any(fnmatch(case, pattern) for pattern in listed)] == []
    assert [pattern for pattern in listed if not any(fnmatch(case, pattern) for case in differing)] == []
