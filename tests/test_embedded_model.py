"""The shipped model directory: complete, small, consistent, and trained for the present prompt."""

import json
from pathlib import Path

import gguf
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer

import atropos_agent.policy
from atropos_environments.terminal_tasks.prompts import (
    SHORT_SYSTEM_PROMPT,
    TERMINAL_SCHEMA_JSON,
    prompt_digest,
)
from atropos_tools.terminal import Terminal

MODEL = Path(atropos_agent.policy.__file__).parent / "embedded_model"
QUICKSTART = Path("configs/terminal_tasks/quickstart.yaml")
FILES = {
    "MODEL_CARD.md",
    "card.json",
    "config.json",
    "generation_config.json",
    "model.gguf",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
SPECIAL = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
TAGS = {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(MODEL / "model.gguf")


def value(reader: gguf.GGUFReader, key: str) -> object:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


def loaded(name: str) -> dict:
    return json.loads((MODEL / name).read_text())


def test_all_files_are_there_and_small() -> None:
    assert {path.name for path in MODEL.iterdir()} == FILES
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000


def test_the_model_was_trained_for_the_present_prompt_and_tool() -> None:
    assert json.loads(TERMINAL_SCHEMA_JSON) == Terminal().schema.to_dict()["function"]
    assert loaded("card.json")["prompt_sha256"] == prompt_digest()


def test_the_system_prompt_fits_150_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(SHORT_SYSTEM_PROMPT, add_special_tokens=False).ids) <= 150


def test_the_card_names_the_size_of_the_model() -> None:
    with safe_open(MODEL / "model.safetensors", "numpy") as weights:
        count = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118 - no mapping
    assert loaded("card.json")["parameters"] == count
    assert 1_000_000 <= count <= 5_000_000


def test_the_quickstart_has_the_tasks_that_were_measured() -> None:
    config = yaml.safe_load(QUICKSTART.read_text())
    assert sorted(config["env"]["tasks"]) == loaded("card.json")["quickstart"]["tasks"]
    assert config["env"]["group_size"] == 8
    assert "8 steps" in loaded("card.json")["measured_with"]
    assert config["agent"]["max_steps"] == 8


def test_enough_of_the_quickstart_is_solved_and_mixed() -> None:
    quickstart = loaded("card.json")["quickstart"]
    assert quickstart["groups"] >= 512
    assert 0.30 <= quickstart["solved"] <= 0.70
    assert quickstart["mixed"] >= 0.45


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_only_the_control_tokens_are_special(tokenizer: Tokenizer) -> None:
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    assert {text for text, special in added.items() if special} == SPECIAL
    assert {text for text, special in added.items() if not special} == TAGS


def test_the_template_is_plain_chatml_and_leaves_content_alone() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    messages = [
        {"role": "system", "content": " s "},
        {"role": "assistant", "content": "<think>\na\n</think>\nb\n"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\n s <|im_end|>\n<|im_start|>assistant\n<think>\na\n</think>\nb\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids


def test_the_gguf_agrees_with_the_config(reader: gguf.GGUFReader, tokenizer: Tokenizer) -> None:
    config = loaded("config.json")
    same = {
        "qwen3.block_count": "num_hidden_layers",
        "qwen3.embedding_length": "hidden_size",
        "qwen3.feed_forward_length": "intermediate_size",
        "qwen3.attention.head_count": "num_attention_heads",
        "qwen3.attention.head_count_kv": "num_key_value_heads",
        "qwen3.attention.key_length": "head_dim",
        "qwen3.attention.value_length": "head_dim",
        "qwen3.context_length": "max_position_embeddings",
        "tokenizer.ggml.eos_token_id": "eos_token_id",
        "tokenizer.ggml.eot_token_id": "eos_token_id",
    }
    assert {key: value(reader, key) for key in same} == {key: config[name] for key, name in same.items()}
    assert value(reader, "qwen3.rope.freq_base") == pytest.approx(config["rope_theta"])
    assert config["eos_token_id"] == tokenizer.token_to_id("<|im_end|>")
    assert value(reader, "tokenizer.ggml.pre") == "qwen2"
    assert value(reader, "tokenizer.ggml.add_bos_token") is False


def test_the_gguf_has_the_same_tokens(reader: gguf.GGUFReader, tokenizer: Tokenizer) -> None:
    tokens, kinds = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert isinstance(tokens, list)
    assert isinstance(kinds, list)
    assert tokens == [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    control = {text for text, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL}
    user = {text for text, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.USER_DEFINED}
    assert (control, user) == (SPECIAL, TAGS)


def test_both_weight_files_hold_the_same_numbers(reader: gguf.GGUFReader) -> None:
    embedding = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight").data
    with safe_open(MODEL / "model.safetensors", "numpy") as weights:
        assert (weights.get_tensor("model.embed_tokens.weight") == embedding).all()
        assert len(reader.tensors) == len(list(weights.keys()))
