"""What follows a completion: never doubled, never missing, and what the template itself would write."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atropos_agent.dialects.hermes import HERMES_MARKS, HERMES_TAGS
from atropos_agent.errors import RenderError
from atropos_agent.renderer import Bridge, Renderer
from atropos_agent.trajectory import FinishReason, Message
from tests.tokenizers_for_tests import SPECIAL, tokenizer_for

STABLE = ("chatml", "glm", "glm_closed", "llama", "no_final_close", "parts", "dated")
REWRITING = ("qwen3", "trimming", "open_think", "plain_close", "alternating", "break_before_close")
PIECES = [*SPECIAL, *HERMES_TAGS, "\n", "\n\n", " ", "done.", "🙂", "漢字", "\ufffd", '{"a": 1}']
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join)
ENDS = st.sampled_from([(FinishReason.STOP, True), (FinishReason.STOP, False), (FinishReason.LENGTH, False)])
OBSERVATION: Message = {"role": "user", "content": "<tool_response>{}</tool_response>"}
NEXT = "<|im_start|>user\n<tool_response>{}</tool_response><|im_end|>\n<|im_start|>assistant\n"


@cache
def renderer_for(name: str) -> Renderer:
    return Renderer(tokenizer_for(name), marks=HERMES_MARKS)


def bridge_after(
    name: str, sampled: str, finish: FinishReason = FinishReason.STOP, **settings: object
) -> Bridge:
    """The bridge from `sampled` to one observation, in a conversation of one turn."""
    renderer = settings.get("renderer") or renderer_for(name)
    assert isinstance(renderer, Renderer)
    ids = renderer.encode(sampled)
    talk: list[Message] = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": renderer.decode_completion(ids)},
        OBSERVATION,
    ]
    return renderer.bridge(talk, ids, finish=finish, turn=1)


@pytest.mark.parametrize("name", STABLE)
@settings(max_examples=40)
@given(question=TEXT, turns=st.lists(st.tuples(TEXT, ENDS, TEXT), min_size=1, max_size=4))
def test_what_was_appended_is_what_the_template_renders(name, question, turns):
    renderer = renderer_for(name)
    end = tokenizer_for(name).eos_token
    talk: list[Message] = [{"role": "user", "content": question}]
    ids = renderer.render(talk).ids
    for number, (text, (finish, closes), answer) in enumerate(turns, 1):
        assume(closes or end not in text)
        sampled = renderer.encode(text + end * closes)
        talk.append({"role": "assistant", "content": renderer.decode_completion(sampled)})
        talk.append({"role": "user", "content": answer})
        bridge = renderer.bridge(talk, sampled, finish=finish, turn=number)
        ids = np.concatenate([ids, sampled, bridge.ids])
        if "reasoning_closed" in bridge.notes:
            talk[-2]["content"] += "</think>"
    assert ids.dtype == np.int32
    assert renderer.decode(ids) == renderer.render(talk).text


@pytest.mark.parametrize("name", REWRITING)
@settings(max_examples=40)
@given(TEXT, ENDS, TEXT)
def test_a_template_that_rewrites_the_assistant_is_no_mismatch(name, text, end, answer):
    renderer = renderer_for(name)
    finish, closes = end
    sampled = renderer.encode(text + str(tokenizer_for(name).eos_token) * closes)
    talk: list[Message] = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": renderer.decode_completion(sampled)},
        {"role": "user", "content": answer},
    ]
    bridge = renderer.bridge(talk, sampled, finish=finish, turn=1)
    assert renderer.decode(bridge.ids) == bridge.text
    assert renderer.render(talk).text.endswith(bridge.text.removeprefix("</think>"))


@pytest.mark.parametrize(
    ("sampled", "finish", "appended", "close_ids", "notes"),
    [
        ("ok<|im_end|>", "stop", "\n", 0, ()),
        ("ok<|im_end|>", "length", "\n", 0, ()),
        ("ok<|im_end|>\n", "stop", "", 0, ()),
        ("ok", "stop", "<|im_end|>\n", 1, ("unreported_stop",)),
        ("ok", "length", "<|im_end|>\n", 1, ()),
        ("", "length", "<|im_end|>\n", 1, ()),
        ("ok<|endoftext|>", "stop", "\n", 0, ("foreign_close",)),
        ("<think>so", "length", "</think><|im_end|>\n", 2, ("reasoning_closed",)),
        ("<think>so", "other", "</think><|im_end|>\n", 2, ("reasoning_closed",)),
        ("<think>so</think>ok", "length", "<|im_end|>\n", 1, ()),
        ("<think>so<|im_end|>", "length", "\n", 0, ()),
        ("<think>so<|endoftext|>", "length", "\n", 0, ("foreign_close",)),
    ],
)
def test_the_turn_ends_once(sampled, finish, appended, close_ids, notes):
    renderer = renderer_for("chatml").with_stop_ids(renderer_for("chatml").encode("<|endoftext|>").tolist())
    bridge = bridge_after("chatml", sampled, FinishReason(finish), renderer=renderer)
    assert bridge.text == appended + NEXT
    assert renderer.decode(bridge.ids) == bridge.text
    assert (bridge.close_ids_added, bridge.notes) == (close_ids, notes)


def test_the_stop_token_of_a_last_turn_replaces_the_close_of_history():
    bridge = bridge_after("gpt_oss", "ok<|endoftext|>")
    assert bridge.text == NEXT.replace("<|im_end|>\n", "<|im_end|>")
    assert bridge.notes == ("foreign_close",)


def test_a_reasoning_block_that_the_prompt_opened_is_closed():
    assert bridge_after("open_think", "so", FinishReason.LENGTH).text.startswith("</think><|im_end|>")
    assert bridge_after("open_think", "so</think>ok", FinishReason.LENGTH).text.startswith("<|im_end|>")


@pytest.mark.parametrize(
    ("sampled", "text", "notes"),
    [
        ("ok<|user|>", "\n<tool_response>{}</tool_response><|assistant|>\n", ()),
        ("ok<|user|>\n", "<tool_response>{}</tool_response><|assistant|>\n", ()),
        ("ok", "<|user|>\n<tool_response>{}</tool_response><|assistant|>\n", ("unreported_stop",)),
        (
            "ok<|endoftext|>",
            "<|user|>\n<tool_response>{}</tool_response><|assistant|>\n",
            ("foreign_close",),
        ),
    ],
)
def test_a_stop_token_that_is_the_head_of_the_bridge_is_not_repeated(sampled, text, notes):
    renderer = renderer_for("glm").with_stop_ids(renderer_for("glm").encode("<|endoftext|>").tolist())
    bridge = bridge_after("glm", sampled, renderer=renderer)
    assert (bridge.text, bridge.close_ids_added, bridge.notes) == (text, 0, notes)
    assert renderer.decode(bridge.ids) == text


@pytest.mark.parametrize(
    ("sampled", "head"),
    [
        ("ok", "\n### end\n\n### user"),
        ("ok\n", "\n### end\n\n### user"),
        ("ok\n### end", "\n\n### user"),
        ("ok.\n### end", "\n\n### user"),
        ("ok</s>", "\n\n### user"),
    ],
)
def test_a_close_in_plain_text_is_neither_doubled_nor_missing(sampled, head):
    bridge = bridge_after("plain_close", sampled)
    assert bridge.text.startswith(head)
    assert renderer_for("plain_close").decode(bridge.ids) == bridge.text


def test_a_token_that_straddles_the_end_of_a_close_is_split():
    renderer = renderer_for("straddled_close")
    for sampled in ("ok</s>", "ok\n### end."):
        bridge = bridge_after("straddled_close", sampled)
        assert bridge.text.startswith("\n\n### user")
        assert renderer.decode(bridge.ids) == bridge.text


def test_the_longest_head_is_held():
    renderer = renderer_for("glm")
    talk: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b<|user|>\n"},
        {"role": "user", "content": "<|user|>\nc"},
    ]
    sampled = renderer.encode("b<|user|>\n<|user|>\n")
    bridge = renderer.bridge(talk, sampled, finish=FinishReason.STOP, turn=1)
    assert bridge.text == "c<|assistant|>\n"


def test_a_joint_in_plain_text_is_noted():
    assert "non_canonical_joint" in bridge_after("plain_close", "ok", FinishReason.LENGTH).notes
    assert "non_canonical_joint" not in bridge_after("chatml", "ok", FinishReason.LENGTH).notes


def test_a_stop_token_sampled_without_the_line_break_before_it_ends_the_turn():
    bridge = bridge_after("break_before_close", "ok<|im_end|>")
    assert bridge.text.startswith("\n<|im_start|>user")
    assert bridge.notes == ()
    assert bridge_after("break_before_close", "ok", FinishReason.LENGTH).text.startswith("\n<|im_end|>\n")


def test_an_end_token_that_eats_the_line_break_is_appended_as_in_context():
    renderer = Renderer(tokenizer_for("chatml", rstrip_end=True), marks=HERMES_MARKS)
    whole = renderer.encode(f"ok<|im_end|>\n{NEXT}").tolist()
    for sampled in ("ok<|im_end|>", "ok"):
        ids = renderer.encode(sampled).tolist()
        bridge = bridge_after("chatml", sampled, FinishReason.LENGTH, renderer=renderer)
        assert ids + bridge.ids.tolist() == whole


def test_several_new_messages_are_all_appended():
    renderer = renderer_for("chatml")
    talk: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        OBSERVATION,
        {"role": "user", "content": "c"},
    ]
    bridge = renderer.bridge(talk, renderer.encode("b<|im_end|>"), finish=FinishReason.STOP, turn=1)
    assert renderer.decode(bridge.ids) == renderer.render(talk).text.partition("b<|im_end|>")[2]


@pytest.mark.parametrize("roles", [["user"], ["user", "assistant"], []])
def test_a_bridge_needs_something_to_cross(roles):
    talk: list[Message] = [{"role": role, "content": "x"} for role in roles]
    renderer = renderer_for("chatml")
    with pytest.raises(RenderError, match="at least one message after it"):
        renderer.bridge(talk, renderer.encode("x"), finish=FinishReason.STOP, turn=1)
