"""What is certified of each template, and why the others are refused."""

from __future__ import annotations

import pytest

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.errors import RenderError
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import FinishReason, Message
from tests.renderer.recorded_certificates import as_json, certificate_of, recorded
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

STABLE = {
    "chatml",
    "dated",
    "default_system",
    "drops_tool",
    "empty_system",
    "end_of_text",
    "glm",
    "glm_closed",
    "gpt_oss",
    "instruct",
    "llama",
    "merged_results",
    "no_final_close",
    "parts",
    "reasoning_field",
    "strict_roles",
    "today",
    "white_space_after_close",
}
REFUSED = {"depends_on_text", "depends_on_turn", "one_turn"}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_bridge_is_certified_exactly_where_it_exists(name: str):
    certificate = certificate_of(name)
    assert certificate.bridge == (name not in REFUSED)
    assert certificate.bridge == (not any(reason.startswith("bridge") for reason in certificate.reasons))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_history_is_stable_exactly_where_nothing_is_rewritten(name: str):
    certificate = certificate_of(name)
    assert certificate.history_stable == (name in STABLE)
    assert certificate.history_stable or certificate.reasons


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("chatml", "<|im_end|>"),
        ("qwen3", "<|im_end|>"),
        ("llama", "<|eot|>"),
        ("alternating", "</s>"),
        ("plain_close", "\n### end"),
        ("gpt_oss", "<|im_end|>"),
        ("no_final_close", "<|im_end|>"),
        ("break_before_close", "\n<|im_end|>"),
        ("straddled_close", "\n### end."),
        ("glm", ""),
        ("glm_closed", ""),
    ],
)
def test_the_close_is_found(name: str, close: str):
    renderer = Renderer(tokenizer_for(name), marks=HERMES_MARKS)
    assert renderer.certificate.close_text == close
    assert renderer.decode(renderer.encode(close)) == close


def test_a_header_that_ends_the_turn_is_a_stop_and_no_close():
    tokenizer = tokenizer_for("glm")
    tokenizer.eos_token = "<|endoftext|>"
    renderer = Renderer(tokenizer, marks=HERMES_MARKS)
    assert renderer.certificate.close_ids == ()
    assert renderer.stop_ids == set(renderer.encode("<|user|><|endoftext|>").tolist())


@pytest.mark.parametrize(
    ("fact", "names"),
    [
        ("trims", {"no_system", "qwen3", "trimming"}),
        (
            "strips_reasoning",
            {"prefilled_think", "qwen3", "qwen3_full", "strips_always", "strips_at_once"},
        ),
        ("opens_reasoning", {"open_think", "prefilled_think"}),
        ("rewrites_observations", {"forgetting"}),
    ],
)
def test_what_a_template_does_to_history_is_recognised(fact: str, names: set[str]):
    assert {name for name in TEMPLATES if getattr(certificate_of(name), fact)} == names


def test_a_prompt_that_history_does_not_show_is_recognised():
    hidden = {name for name in TEMPLATES if not certificate_of(name).prompt_in_history}
    assert hidden == {"alternating", "empty_think", "one_turn", "open_think"}


HABITS = {
    "alternating": "writes BOS; system messages are refused; tool messages are refused; "
    "roles must alternate; has no generation prompt",
    "dated": "injects a date; injects a system prompt",
    "default_system": "injects a system prompt",
    "drops_tool": "system messages are dropped; tool messages are dropped",
    "glm": "writes BOS; merges consecutive tool messages",
    "glm_closed": "writes BOS; merges consecutive tool messages",
    "instruct": "writes BOS; tool messages are refused; roles must alternate; has no generation prompt",
    "llama": "writes BOS",
    "merged_results": "merges consecutive user and tool messages",
    "no_system": "writes BOS; system messages are refused",
    "one_turn": "system messages are refused; tool messages are refused; roles must alternate",
    "parts": "takes content only as parts",
    "qwen3_full": "merges consecutive tool messages; takes reasoning in 'reasoning_content'; "
    "takes call arguments as mapping; shows tools",
    "reasoning_field": "takes reasoning in 'reasoning_content'",
    "strict_roles": "tool messages are refused",
    "today": "writes BOS; injects a date; injects a system prompt",
}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_habits_are_found_exactly_where_a_template_has_them(name: str):
    assert str(certificate_of(name).habits) == HABITS.get(name, "none")


def test_only_a_close_that_begins_in_plain_text_is_joined_non_canonically():
    loose = [name for name in sorted(TEMPLATES) if certificate_of(name).joint == "non-canonical"]
    assert loose == ["break_before_close", "plain_close", "straddled_close"]


def test_an_end_token_that_eats_white_space_keeps_its_bridge():
    certificate = Renderer(tokenizer_for("chatml", rstrip_end=True), marks=HERMES_MARKS).certificate
    assert certificate.bridge
    assert certificate.joint == "canonical"
    assert len(certificate.close_ids) == 1


def test_a_refused_shape_is_named_and_costs_no_bridge():
    certificate = certificate_of("alternating")
    assert certificate.bridge
    assert any(r.startswith("shape: a system prompt") and "must alternate" in r for r in certificate.reasons)


def test_without_a_bridge_the_reasons_are_raised():
    renderer = Renderer(tokenizer_for("depends_on_text"), marks=HERMES_MARKS)
    talk: list[Message] = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "more"},
    ]
    with pytest.raises(RenderError, match="depends on that text"):
        renderer.bridge(talk, renderer.encode("hi"), finish=FinishReason.STOP, turn=1)


def test_the_certificate_is_kept_for_equal_templates_and_tokenizers():
    assert certificate_of("chatml") is certificate_of("chatml")
    assert certificate_of("chatml").key != certificate_of("qwen3").key
    with_argument = Renderer(
        tokenizer_for("chatml"), template_arguments={"enable_thinking": False}, marks=HERMES_MARKS
    )
    assert with_argument.certificate.key != certificate_of("chatml").key


def test_a_date_of_one_s_own_is_not_injected():
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = "{{ strftime_now('%Y') if dated }}" + tokenizer.chat_template
    assert not Renderer(tokenizer, marks=HERMES_MARKS).certificate.habits.injects_date
    assert Renderer(
        tokenizer, template_arguments={"dated": True}, marks=HERMES_MARKS
    ).certificate.habits.injects_date


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_certificate_holds_what_was_recorded_of_it(name: str):
    found, before = as_json(certificate_of(name)), recorded()[name]
    for nested in ("habits", "branching"):
        now = found[nested]
        assert {field: now[field] for field in before[nested]} == before[nested]
    plain = before.keys() - {"habits", "branching"}
    assert {field: found[field] for field in plain} == {field: before[field] for field in plain}


def test_enough_probes_were_made():
    assert certificate_of("chatml").probes > 500
