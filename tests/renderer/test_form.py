"""Messages of every role reach a template in the fields that it shows, or are refused by name."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.errors import RenderError
from atropos_agent.renderer import CallArguments, Renderer
from atropos_agent.trajectory import Message, ToolSchema
from tests.renderer.tool_templates import (
    REASONS_IN_CALLS,
    TOOL_TEMPLATES,
    call,
    calling,
    result,
    tool_renderer,
)
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

QUESTION: Message = {"role": "user", "content": "Where is it?"}
LOOK = ToolSchema.of("look", "Looks a page up.", {"page": {"type": "integer", "description": "its number"}})


def renderer_of(template: str) -> Renderer:
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = template
    return Renderer(tokenizer, marks=HERMES_MARKS)


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"one_turn", "dated"}))
def test_a_list_of_text_parts_is_rendered_like_the_joined_text(name):
    renderer = Renderer(tokenizer_for(name), marks=HERMES_MARKS)
    joined: Message = {"role": "user", "content": "Where is it?"}
    in_parts: Message = {
        "role": "user",
        "content": [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}],
    }
    if name == "parts":  # shows the first part alone
        in_parts = {"role": "user", "content": [{"type": "text", "text": "Where is it?"}]}
    assert renderer.render([in_parts]).text == renderer.render([joined]).text


@pytest.mark.parametrize("name", ["chatml", "parts"])
def test_an_image_is_refused_by_name(name):
    image: Message = {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is on"},
            {"type": "image_url", "image_url": {"url": "file:a.png"}},
        ],
    }
    with pytest.raises(RenderError, match=r"message 1 \(user\): part 1 is of type 'image_url'.*take it out"):
        Renderer(tokenizer_for(name)).render([QUESTION, image])


@pytest.mark.parametrize(
    ("template", "field"),
    [
        (TEMPLATES["reasoning_field"], "reasoning_content"),
        (TEMPLATES["reasoning_field"].replace("reasoning_content", "reasoning"), "reasoning"),
        (TEMPLATES["reasoning_field"].replace("reasoning_content", "thinking"), "thinking"),
    ],
)
def test_reasoning_goes_under_the_field_that_the_template_shows(template, field):
    renderer = renderer_of(template)
    thought: Message = {"role": "assistant", "content": "On page 3.", "reasoning": "page 3?"}
    assert renderer.certificate.habits.reasoning_field == field
    assert renderer.shows_reasoning
    assert "<think>\npage 3?\n</think>\n\nOn page 3." in renderer.text([QUESTION, thought, QUESTION])


def test_reasoning_that_is_shown_beside_calls_alone_is_recognised():
    renderer = renderer_of(REASONS_IN_CALLS)
    assert renderer.shows_reasoning
    assert "<think>hm</think>" in renderer.text([QUESTION, calling([call(1, {})], reasoning="hm")])


def test_reasoning_without_a_field_is_left_out_and_the_renderer_says_so():
    renderer = renderer_of(TEMPLATES["chatml"])
    thought: Message = {"role": "assistant", "content": "On page 3.", "reasoning": "page 3?"}
    plain: Message = {"role": "assistant", "content": "On page 3."}
    assert not renderer.shows_reasoning
    assert renderer.text([QUESTION, thought]) == renderer.text([QUESTION, plain])


def test_empty_reasoning_and_calls_are_no_fields_for_the_template():
    renderer = renderer_of("{{- messages[-1].keys() | list | string }}{{- messages[-1].content }}")
    said: Message = {"role": "assistant", "content": "x", "reasoning": "", "tool_calls": []}
    assert renderer.text([QUESTION, said]) == "['role', 'content']x"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("chatml", CallArguments.MAPPING),
        ("qwen3_full", CallArguments.MAPPING),
        ("json_text", CallArguments.TEXT),
        ("printed", CallArguments.TEXT),
        ("no_calls", CallArguments.NOT_SHOWN),
    ],
)
def test_arguments_go_as_the_template_takes_them(name, arguments):
    renderer = tool_renderer(name)
    assert renderer.certificate.habits.call_arguments is arguments
    talk: list[Message] = [QUESTION, calling([call(1, {"page": [3, None], "title": 'é "x"'})])]
    if arguments is CallArguments.NOT_SHOWN:
        with pytest.raises(RenderError, match=r"message 1 \(assistant\): .* does not show tool_calls"):
            renderer.text(talk)
    else:
        assert '{"page": [3, null], "title": "é \\"x\\""}' in renderer.text(talk)


def test_frozen_arguments_are_rendered():
    made = call(1, {"page": 3})
    frozen = {**made, "function": {"name": "look", "arguments": MappingProxyType({"page": (3, 4)})}}
    assert '[look]{"page": [3, 4]}' in tool_renderer("chatml").text([QUESTION, calling([frozen])])  # type: ignore[list-item]


def test_tools_are_a_template_argument_of_one_rollout():
    renderer = Renderer(tokenizer_for("qwen3_full"), marks=HERMES_MARKS)
    told = renderer.with_tools([LOOK])
    assert '"name": "look"' in told.text([QUESTION])
    assert '"name": "look"' not in renderer.text([QUESTION])
    assert told.certificate.key != renderer.certificate.key
    assert told.certificate.tool_bridge.after_calls
    assert told.with_tools([]).text([QUESTION]) == renderer.text([QUESTION])
    given = Renderer(
        tokenizer_for("qwen3_full"), marks=HERMES_MARKS, template_arguments={"tools": [LOOK.to_dict()]}
    )
    assert given.certificate.key == told.certificate.key


def test_a_conversation_with_tools_calls_and_reasoning_is_that_of_transformers():
    tokenizer, made = tokenizer_for("qwen3_full"), call(1, {"page": 3})
    talk: list[Message] = [QUESTION, calling([made], "I look.", "hm"), result(made, "page 3")]
    ours = Renderer(tokenizer).with_tools([LOOK]).text(talk)
    chat = [{**m, "reasoning_content": "hm"} if m["role"] == "assistant" else dict(m) for m in talk]
    theirs = tokenizer.apply_chat_template(
        chat, tools=[LOOK.to_dict()], tokenize=False, add_generation_prompt=True
    )
    assert ours == theirs


def test_plain_messages_reach_the_template_uncopied():
    template = Renderer(tokenizer_for("chatml"))._template
    talk = [QUESTION, {"role": "assistant", "content": "x"}, result(call(1, {}), "y")]
    assert template._filled_in(talk) is talk


def test_every_tool_template_names_its_arguments():
    shown = {name: tool_renderer(name).certificate.habits.call_arguments for name in TOOL_TEMPLATES}
    assert {name for name, form in shown.items() if form is CallArguments.NOT_SHOWN} == {
        "no_calls",
        "no_results",
    }
