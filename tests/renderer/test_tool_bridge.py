"""Tool messages after text and after structured calls: certified apart, and appended exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.errors import BridgeMismatch, RenderError
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import FinishReason, Message
from tests.renderer.tool_templates import TOOL_TEMPLATES, call, calling, result, tool_renderer
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

CERTIFIED = {
    "chatml": ("<|im_end|>", "<|im_end|>"),
    "own_end": ("<|eot|>", "<|eot|>"),
    "header_ends": ("<|head|>", ""),
    "qwen3_full": ("<|im_end|>", "<|im_end|>"),
    "json_text": ("<|im_end|>", "<|im_end|>"),
    "printed": ("<|im_end|>", "<|im_end|>"),
    "id_behind": ("<|im_end|>", "<|im_end|>"),
    "parts": ("<|im_end|>", "<|im_end|>"),
    "one_call": ("<|im_end|>", "<|im_end|>"),
    "forgets_results": ("<|im_end|>", "<|im_end|>"),
}
STEADY = sorted(CERTIFIED.keys() - {"qwen3_full", "forgets_results"})
QUESTION: Message = {"role": "user", "content": "Where is it?"}
WORDS = st.text(st.sampled_from("ab \n\"'{}é漢🙂"), max_size=6)
ARGUMENTS = st.dictionaries(st.sampled_from(["page", "path"]), WORDS | st.integers() | st.none(), max_size=2)
TURNS = st.lists(st.tuples(WORDS, ARGUMENTS, WORDS), min_size=1, max_size=3)


@pytest.mark.parametrize("name", sorted(TOOL_TEMPLATES))
def test_calls_are_certified_with_their_end_exactly_where_what_follows_is_constant(name):
    found = tool_renderer(name).certificate.tool_bridge
    assert found.after_calls == (name in CERTIFIED)
    assert (found.calls_end, found.calls_close) == CERTIFIED.get(name, ("", ""))
    assert found.after_calls == (not any(reason.startswith("after calls") for reason in found.reasons))


def test_results_after_text_are_certified_apart():
    after_text = {name for name in TOOL_TEMPLATES if tool_renderer(name).certificate.tool_bridge.after_text}
    assert after_text == TOOL_TEMPLATES.keys() - {"no_results", "counted"}


def test_results_that_are_later_shown_otherwise_are_recognised():
    rewriting = {
        name for name in TOOL_TEMPLATES if tool_renderer(name).certificate.tool_bridge.rewrites_results
    }
    assert rewriting == {"forgets_results"}


@pytest.mark.parametrize("name", STEADY)
@settings(max_examples=25)
@given(turns=TURNS)
def test_what_is_appended_after_calls_is_what_the_template_renders(name, turns):
    renderer = tool_renderer(name)
    talk: list[Message] = [QUESTION]
    ids = renderer.render(talk).ids
    for number, (content, arguments, output) in enumerate(turns, 1):
        made = call(number, arguments)
        talk += [calling([made], content), result(made, output)]
        sampled = renderer.encode(sampled_text(renderer, talk))
        bridge = renderer.bridge(talk, sampled, finish=FinishReason.STOP, turn=number)
        ids = np.concatenate([ids, sampled, bridge.ids])
        assert not bridge.notes
    assert renderer.decode(ids) == renderer.render(talk).text
    assert renderer.check_bridges(talk) == ()


def sampled_text(renderer: Renderer, talk: list[Message]) -> str:
    """What a policy samples so that the template shows it as it was: calls and the end of their turn."""
    shown = renderer.text(talk[:-2])
    end = renderer.certificate.tool_bridge.calls_end
    calls, found, _ = renderer.text(talk).removeprefix(shown).partition(end)
    assert found
    return calls + end


def test_the_end_of_calls_is_added_once_where_it_was_not_sampled():
    for name, (end, close) in CERTIFIED.items():
        renderer, made = tool_renderer(name), call(1, {"page": 3})
        talk: list[Message] = [QUESTION, calling([made]), result(made, "page 3")]
        whole = sampled_text(renderer, talk)
        sampled = renderer.encode(whole.removesuffix(end))
        cut = renderer.bridge(talk, sampled, finish=FinishReason.LENGTH, turn=1)
        ended = renderer.bridge(talk, renderer.encode(whole), finish=FinishReason.STOP, turn=1)
        assert cut.text == end + ended.text
        assert (cut.close_ids_added, ended.close_ids_added) == (1 if close else 0, 0)


def test_several_calls_and_their_results_are_one_bridge():
    renderer = tool_renderer("chatml")
    calls = [call(1, {"page": 3}), call(2, {"page": 4}, "list")]
    talk: list[Message] = [QUESTION, calling(calls), result(calls[0], "three"), result(calls[1], "four")]
    prompt = renderer.text(talk[:1])
    sampled = '\n[look]{"page": 3}\n[list]{"page": 4}<|im_end|>'
    bridge = renderer.bridge(talk, renderer.encode(sampled), finish=FinishReason.STOP, turn=1)
    assert prompt + sampled + bridge.text == renderer.text(talk)


def test_calls_that_the_template_takes_one_at_a_time_are_refused_in_its_words():
    renderer, calls = tool_renderer("one_call"), [call(1, {}), call(2, {})]
    talk: list[Message] = [QUESTION, calling(calls), result(calls[0], "a"), result(calls[1], "b")]
    with pytest.raises(RenderError, match="one call at a time"):
        renderer.bridge(talk, renderer.encode("x"), finish=FinishReason.STOP, turn=1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("text_behind", "after calls: .* depends on the turn"), ("counted", "after calls: .* on history")],
)
def test_a_bridge_that_is_not_certified_is_refused_with_its_reasons(name, reason):
    renderer, made = tool_renderer(name), call(1, {})
    talk: list[Message] = [QUESTION, calling([made]), result(made, "page 3")]
    with pytest.raises(RenderError, match=reason):
        renderer.bridge(talk, renderer.encode("x"), finish=FinishReason.STOP, turn=1)


def test_calls_without_results_are_refused():
    talk: list[Message] = [QUESTION, calling([call(1, {})]), QUESTION]
    renderer = tool_renderer("chatml")
    with pytest.raises(RenderError, match="calls of the last assistant message have no results"):
        renderer.bridge(talk, renderer.encode("x"), finish=FinishReason.STOP, turn=1)


def test_a_branch_on_a_call_that_no_probe_holds_is_caught():
    branching = tokenizer_for("chatml")
    branching.chat_template = TOOL_TEMPLATES["chatml"].replace(
        "'<|im_end|>\\n'", "'<|im_end|>\\n' + ('!' if 'xyzzy' in m.tool_calls | string else '')"
    )
    renderer, made = Renderer(branching), call(1, {"word": "xyzzy"})
    assert renderer.certificate.tool_bridge.after_calls
    talk: list[Message] = [QUESTION, calling([made]), result(made, "page 3")]
    with pytest.raises(BridgeMismatch, match="after assistant message 1"):
        renderer.bridge(talk, renderer.encode("x<|im_end|>"), finish=FinishReason.STOP, turn=1)


def test_a_template_that_rewrites_old_results_is_held_to_the_last_bridge_alone():
    renderer, made = tool_renderer("forgets_results"), call(1, {"page": 3})
    exchange: list[Message] = [calling([made]), result(made, "page 3")]
    assert renderer.check_bridges([QUESTION, *exchange, *exchange]) == ()


def test_results_follow_raw_text_in_a_dialect_that_writes_calls_itself():
    renderer = Renderer(tokenizer_for("qwen3_full"), marks=HERMES_MARKS)
    said = f"<think>\nhm\n</think>\n\n{HERMES_MARKS.call}"
    talk: list[Message] = [QUESTION, {"role": "assistant", "content": said}, result(call(1, {}), "page 3")]
    sampled = renderer.encode(f"{said}<|im_end|>")
    bridge = renderer.bridge(talk, sampled, finish=FinishReason.STOP, turn=1)
    assert renderer.text(talk[:1]) + renderer.decode(sampled) + bridge.text == renderer.text(talk)


def test_the_template_goes_on_from_calls_and_reasoning_that_it_shows_as_they_were_sampled():
    renderer, made = tool_renderer("qwen3_full", HERMES_MARKS), call(1, {"page": 3})
    talk: list[Message] = [QUESTION, calling([made], "I look.", "hm"), result(made, "page 3")]
    shown, sampled = renderer.text(talk[:1]), renderer.encode(sampled_text(renderer, talk))
    found = renderer.continuation(shown, talk, sampled, finish=FinishReason.STOP)
    assert found.bridge is not None
    assert shown + renderer.decode(sampled) + found.bridge.text == found.text == renderer.text(talk)
    other = renderer.encode(f"I think.\n{renderer.decode(sampled)}")
    assert renderer.continuation(shown, talk, other, finish=FinishReason.STOP).bridge is None


def test_simple_templates_show_results_and_no_calls():
    shown = {name for name in TEMPLATES if Renderer(tokenizer_for(name)).certificate.tool_bridge.after_calls}
    assert shown == {"qwen3_full"}
