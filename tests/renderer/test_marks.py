"""The renderer knows no dialect: what opens reasoning and what is a control text is given to it."""

from __future__ import annotations

from pathlib import Path

import pytest

import atropos_agent.renderer as package
from atropos_agent.dialects.hermes import HERMES_MARKS, HERMES_TAGS
from atropos_agent.errors import RenderError
from atropos_agent.renderer import Marks, Renderer
from atropos_agent.trajectory import FinishReason, Message
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

OTHER = Marks(
    reasoning_open="[muse]",
    reasoning_close="[/muse]",
    control_texts=("[muse]", "[/muse]", "!call"),
    call="!call ls",
    observation="!result a.txt",
)
TALK: list[Message] = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "go on"},
]


def closed(renderer: Renderer, sampled: str) -> bool:
    """Is `sampled`, cut off, closed like reasoning?"""
    ids = renderer.encode(sampled)
    talk: list[Message] = [TALK[0], {"role": "assistant", "content": sampled}, TALK[2]]
    bridge = renderer.bridge(talk, ids, finish=FinishReason.LENGTH, turn=1)
    added = bridge.text.startswith(renderer.marks.reasoning_close) and bool(renderer.marks.reasoning_close)
    assert added == ("reasoning_closed" in bridge.notes)
    return added


def test_no_module_of_the_renderer_spells_a_dialect():
    for path in Path(package.__file__).parent.glob("*.py"):
        tags = {tag for tag in HERMES_TAGS if tag in path.read_text()}
        assert path.name == "marks.py" or not tags, f"{path.name} holds {tags}"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_without_marks_nothing_opens_reasoning(name):
    renderer = Renderer(tokenizer_for(name))
    assert not renderer.opens_reasoning
    if renderer.certificate.bridge:
        assert not closed(renderer, "<think>so")
    told = Renderer(tokenizer_for(name), marks=HERMES_MARKS)
    assert renderer.certificate.bridge == told.certificate.bridge
    assert renderer.certificate.close_ids == told.certificate.close_ids


def test_without_marks_only_the_tokenizers_own_control_tokens_are_known():
    tokenizer = tokenizer_for("chatml")
    assert "!call" not in Renderer(tokenizer).control_tokens
    renderer = Renderer(tokenizer, marks=OTHER)
    assert "!call" in renderer.control_tokens
    assert "!call" not in renderer.neutralise("!call ls")
    assert "!call" not in renderer.with_marks(Marks()).control_tokens


def test_reasoning_of_another_dialect_is_closed_with_its_own_marker():
    renderer = Renderer(tokenizer_for("chatml"), marks=OTHER)
    assert closed(renderer, "[muse]so")
    assert not closed(renderer, "[muse]so[/muse]")
    assert not closed(renderer, "<think>so")
    opening = tokenizer_for("open_think")
    opening.chat_template = TEMPLATES["open_think"].replace("<think>", "[muse]")
    assert Renderer(opening, marks=OTHER).opens_reasoning
    assert closed(Renderer(opening, marks=OTHER), "so")
    assert not Renderer(opening, marks=HERMES_MARKS).opens_reasoning


def test_a_template_that_strips_reasoning_strips_that_of_its_own_dialect():
    tokenizer = tokenizer_for("qwen3")
    assert Renderer(tokenizer, marks=HERMES_MARKS).certificate.strips_reasoning
    assert not Renderer(tokenizer, marks=OTHER).certificate.strips_reasoning
    tokenizer.chat_template = TEMPLATES["qwen3"].replace("</think>", "[/muse]")
    assert Renderer(tokenizer, marks=OTHER).certificate.strips_reasoning


def test_a_certificate_belongs_to_its_marks():
    renderer = Renderer(tokenizer_for("qwen3"))
    told = renderer.with_marks(HERMES_MARKS)
    assert told.with_marks(HERMES_MARKS) is told
    assert told.certificate.key != renderer.certificate.key
    assert told.certificate is Renderer(tokenizer_for("qwen3"), marks=HERMES_MARKS).certificate
    assert renderer.marks == Marks()


def test_the_same_ids_are_rendered_with_any_marks():
    renderer = Renderer(tokenizer_for("qwen3"))
    for marks in (HERMES_MARKS, OTHER):
        assert renderer.with_marks(marks).render(TALK).ids.tolist() == renderer.render(TALK).ids.tolist()


@pytest.mark.parametrize(
    "given", [{"reasoning_open": "<a>"}, {"reasoning_close": "</a>"}, {"control_texts": ("x", "")}]
)
def test_marks_that_cannot_be_meant_are_refused(given):
    with pytest.raises(RenderError, match=r"give both or neither|leave it out"):
        Marks(**given)
