"""Whole conversations to ids, and where a renderer comes from."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors

from atropos_agent.errors import RenderError
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import Message
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

TALK: list[Message] = [
    {"role": "user", "content": "What is  it?\n"},
    {"role": "assistant", "content": "\n<think>\nhm\n</think>\n\n42. "},
    {"role": "user", "content": "<tool_response>{}</tool_response>"},
]
SAYS_HELLO: list[Message] = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"one_turn", "parts", "dated"}))
def test_text_and_ids_are_those_of_transformers(name: str):
    tokenizer = tokenizer_for(name)
    rendered = Renderer(tokenizer).render(TALK)
    chat = [{"role": str(message["role"]), "content": message["content"]} for message in TALK]
    assert rendered.text == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert rendered.ids.tolist() == whole
    assert rendered.ids.dtype == np.int32


def test_content_goes_as_parts_where_the_template_takes_only_parts():
    assert (
        Renderer(tokenizer_for("parts")).render(TALK).text
        == Renderer(tokenizer_for("chatml")).render(TALK).text
    )


def test_exactly_one_bos_although_the_tokenizer_would_add_another():
    tokenizer = tokenizer_for("llama")
    bos = tokenizer.convert_tokens_to_ids("<s>")
    assert isinstance(bos, int)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    assert tokenizer.encode("<s>").count(bos) == 2
    assert Renderer(tokenizer).render(TALK).ids.tolist().count(bos) == 1


def test_threads_may_share_a_renderer():
    renderer = Renderer(tokenizer_for("qwen3"))
    talks: list[list[Message]] = [[*TALK, {"role": "user", "content": f"number {k}"}] for k in range(64)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda talk: renderer.decode(renderer.render(talk).ids), talks))
    assert texts == [renderer.render(talk).text for talk in talks]


def test_the_clock_of_a_template_stands_still():
    renderer = Renderer(tokenizer_for("dated"))
    assert renderer.render(TALK).text == renderer.render(TALK).text


def test_template_arguments_reach_the_template_and_are_frozen():
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = "{{ words[0] }}: {{ messages[0].content }}"
    words = ["note"]
    renderer = Renderer(tokenizer, template_arguments={"words": words})
    words[0] = "changed"
    assert renderer.render(SAYS_HELLO).text == "note: hello"


def test_later_changes_to_the_tokenizer_change_nothing():
    tokenizer = tokenizer_for("chatml")
    renderer = Renderer(tokenizer)
    before = renderer.render(SAYS_HELLO)
    tokenizer.chat_template = "other"
    tokenizer.add_tokens(["hello"])
    tokenizer.backend_tokenizer.enable_truncation(1)
    assert renderer.render(SAYS_HELLO).ids.tolist() == before.ids.tolist()


def test_truncation_of_the_tokenizer_is_ignored():
    tokenizer = tokenizer_for("chatml")
    tokenizer.backend_tokenizer.enable_truncation(1)
    assert len(Renderer(tokenizer).render(SAYS_HELLO).ids) > 1


def test_a_template_that_refuses_is_quoted():
    renderer = Renderer(tokenizer_for("alternating"))
    with pytest.raises(RenderError, match="Conversation roles must alternate"):
        renderer.render([*SAYS_HELLO, *SAYS_HELLO])


@pytest.mark.parametrize("template", ["{{ messages[7].content }}", "{{ 1 // 0 }}", "{{ 'x' + messages }}"])
def test_a_template_that_fails_is_a_render_error(template: str):
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = template
    with pytest.raises(RenderError, match="refuses this conversation"):
        Renderer(tokenizer).render(SAYS_HELLO)


def test_a_template_with_a_syntax_error_is_refused_at_once():
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = "{% if %}"
    with pytest.raises(RenderError, match="not valid Jinja: line 1"):
        Renderer(tokenizer)


def test_a_tokenizer_without_a_template_is_refused_at_once():
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = None
    with pytest.raises(RenderError, match="no chat template"):
        Renderer(tokenizer)


def test_a_saved_folder_loads_with_its_end_tokens(tmp_path: Path):
    tokenizer = tokenizer_for("glm")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [302, 305]}))
    renderer = Renderer.load(tmp_path)
    assert renderer.render(TALK).ids.tolist() == Renderer(tokenizer).render(TALK).ids.tolist()
    assert renderer.stop_ids == {302, 305}


def test_a_server_may_add_stop_ids():
    renderer = Renderer(tokenizer_for("chatml"))
    assert renderer.with_stop_ids([302]).stop_ids == renderer.stop_ids | {302}
    assert 302 not in renderer.stop_ids


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0", "added_tokens": [], "model": {}}'])
def test_a_folder_without_a_tokenizer_is_a_render_error(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(RenderError, match="tokenizer"):
        Renderer.load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(RenderError, match=r"no folder .*nowhere"):
        Renderer.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "template",
    ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ raise_exception.__globals__.keys() }}"],
)
def test_a_template_stays_in_its_sandbox(template: str):
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = template
    for _ in range(2):
        with pytest.raises(RenderError, match="unsafe"):
            Renderer(tokenizer).render(SAYS_HELLO)
