"""Writes a checkpoint in the form that ships: safetensors, tokenizer, configs, GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from scripts.tiny_policy.model import Shape, TinyPolicy
from scripts.tiny_policy.tokenizer import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    SPECIAL,
    TURN_END,
    save_tokenizer,
    token_id,
)


def save_model(model: TinyPolicy, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the whole directory; weights in fp16 (norms stay fp32 in the GGUF, as llama.cpp expects)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to(torch.float16).numpy() for name, tensor in model.state_dict().items()}
    eos, pad = token_id(tokenizer, TURN_END), token_id(tokenizer, END_OF_TEXT)
    save_tokenizer(tokenizer, folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", model.shape.to_config(eos, pad))
    generation = {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    _write_json(folder / "generation_config.json", generation)
    write_gguf(weights, tokenizer, model.shape, folder / "model.gguf")
    for path in folder.iterdir():
        path.chmod(0o644)


def write_gguf(
    weights: dict[str, NDArray[np.float16]], tokenizer: Tokenizer, shape: Shape, path: Path
) -> None:
    """The same for llama.cpp: architecture qwen3, tokenizer model gpt2, pre-tokenizer qwen2."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("atropos-agent tiny shell policy")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, shape.num_hidden_layers)
    for name, tensor in weights.items():
        renamed = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(str(renamed), tensor if tensor.ndim == 2 else tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = [tokenizer.id_to_token(token_id) or "" for token_id in range(tokenizer.get_vocab_size())]
    kinds = [
        gguf.TokenType.NORMAL
        if token not in added
        else gguf.TokenType.CONTROL
        if added[token]
        else gguf.TokenType.USER_DEFINED
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_eos_token_id(token_id(tokenizer, TURN_END))
    writer.add_eot_token_id(token_id(tokenizer, TURN_END))
    writer.add_pad_token_id(token_id(tokenizer, END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    assert all(token in added for token in SPECIAL)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
