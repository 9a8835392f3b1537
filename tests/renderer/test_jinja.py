"""Chat templates run in an environment of our own, and render as transformers renders them."""

from __future__ import annotations

import re

import pytest
from jinja2 import TemplateError

from atropos_agent.errors import RenderError
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import Message
from tests.renderer.tool_templates import TOOL_TEMPLATES
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

TALKS: dict[str, list[Message]] = {
    "a question": [{"role": "user", "content": '<b>What</b> is "it" & why?\n'}],
    "a question in context": [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "ça 漢字 🙂"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n42. "},
        {"role": "user", "content": "And?"},
    ],
}
LANGUAGE = {
    "trimmed blocks": "  {% if true %}\n a\n  {% endif %}\nb",
    "a generation block": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    ),
    "the scope of a generation block": (
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    ),
    "a loop around a generation block": (
        "{% for m in messages %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}"
    ),
    "break and continue": "{% for n in range(9) %}{% if n == 1 %}{% continue %}{% endif %}"
    "{% if n == 4 %}{% break %}{% endif %}{{ n }}{% endfor %}",
    "JSON without escapes": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "JSON with its options": "{{ {'b': 'é', 'a': 1} | tojson(True, separators=(',', ':'), sort_keys=True) }}",
    "a namespace": "{% set ns = namespace(self=1, n=0) %}{% set ns.n = ns.n + 2 %}{{ ns.n }}{{ ns.self }}",
    "a dict": "{{ dict(a=1) }}{{ dict.fromkeys(['a', 'b'], 2) }}{{ dict({'b': 3}).items() | list }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}",
    "undefined names": "{{ nothing }}{{ tools is none }}{{ documents is none }}{{ thinking is defined }}",
    "a macro": "{% macro m(x) %}{{ x }}{{ bos_token }}{% endmacro %}{{ m(1) }}",
}


def both(template: str, talk: list[Message]) -> tuple[str, object]:
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = template
    chat = [{str(key): value for key, value in message.items()} for message in talk]
    try:
        theirs = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        theirs = f"refused: {error}"
    try:
        return Renderer(tokenizer).text(talk), theirs
    except RenderError as error:
        return f"refused: {error.__cause__}", theirs


@pytest.mark.parametrize("talk", sorted(TALKS))
@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {"parts", "dated"}))
def test_every_template_renders_as_in_transformers(name, talk):
    ours, theirs = both(TEMPLATES[name], TALKS[talk])
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(TOOL_TEMPLATES.keys() - {"parts"}))
def test_templates_with_tools_render_as_in_transformers(name):
    ours, theirs = both(TOOL_TEMPLATES[name], TALKS["a question in context"])
    assert ours == theirs


@pytest.mark.parametrize("what", sorted(LANGUAGE))
def test_the_language_is_that_of_transformers(what):
    ours, theirs = both(LANGUAGE[what], TALKS["a question in context"])
    assert ours == theirs


def test_the_clock_is_shown_in_the_pattern_of_the_template():
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = "{{ strftime_now('%d %B %Y') }}"
    assert re.fullmatch(r"\d\d \w+ \d{4}", Renderer(tokenizer).text(TALKS["a question"]))


@pytest.mark.parametrize(
    "template",
    [
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ dict.__class__.__mro__ }}",
        "{{ namespace.mro() }}",
        "{{ messages[0].update(role='x') }}",
    ],
)
def test_what_leads_out_of_the_sandbox_is_refused(template):
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = template
    with pytest.raises(RenderError, match=r"unsafe|not safely"):
        Renderer(tokenizer).text(TALKS["a question"])
