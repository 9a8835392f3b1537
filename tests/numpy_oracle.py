"""Qwen3's forward pass in plain numpy: a source of logprobs that shares nothing with the server.

Set OPENBLAS_NUM_THREADS=1 before numpy is imported: the matrices are small and threads only slow them down.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.floating]


class NumpyOracle:
    """Log-probabilities of a Qwen3 checkpoint folder, in float32."""

    def __init__(self, folder: Path) -> None:
        self._config = json.loads((folder / "config.json").read_text())
        loaded = load_file(folder / "model.safetensors")
        self._weights = {name: tensor.astype(np.float32) for name, tensor in loaded.items()}

    def logprobs(self, ids: NDArray[np.int32]) -> Array:
        """The log-probability of each next token, float32[n, vocabulary], after each of `ids` int32[n]."""
        hidden = self._weights["model.embed_tokens.weight"][ids]
        for layer in range(self._config["num_hidden_layers"]):
            hidden = hidden + self._attention(layer, self._norm(hidden, f"layers.{layer}.input_layernorm"))
            hidden = hidden + self._mlp(layer, self._norm(hidden, f"layers.{layer}.post_attention_layernorm"))
        head = self._weights.get("lm_head.weight", self._weights["model.embed_tokens.weight"])
        logits = self._norm(hidden, "norm") @ head.T
        highest = logits.max(axis=-1, keepdims=True)
        return logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))

    def sampled(
        self, prompt: NDArray[np.int32], sampled: NDArray[np.int32], temperature: float = 1.0
    ) -> Array:
        """The log-probability of each of `sampled` int32[n] where it was sampled, float32[n]."""
        after = self.logprobs(np.concatenate([prompt, sampled[:-1]])) / np.float32(temperature)
        after = after - np.log(np.exp(after).sum(axis=-1, keepdims=True))
        return after[len(prompt) - 1 :][np.arange(len(sampled)), sampled]

    def _norm(self, values: Array, name: str) -> Array:
        scale = 1 / np.sqrt((values**2).mean(axis=-1, keepdims=True) + self._config["rms_norm_eps"])
        return values * scale * self._weights[f"model.{name}.weight"]

    def _mlp(self, layer: int, values: Array) -> Array:
        gate = self._project(layer, "mlp.gate_proj", values)
        up = self._project(layer, "mlp.up_proj", values)
        return self._project(layer, "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)

    def _attention(self, layer: int, values: Array) -> Array:
        config, length = self._config, len(values)
        heads, size = config["num_attention_heads"], config["head_dim"]
        query = self._heads(layer, "q", values, rotated=True)
        key = self._heads(layer, "k", values, rotated=True)
        value = self._heads(layer, "v", values, rotated=False)
        repeats = heads // config["num_key_value_heads"]
        key, value = key.repeat(repeats, axis=0), value.repeat(repeats, axis=0)
        scores = query @ key.transpose(0, 2, 1) / np.float32(size) ** np.float32(0.5)
        scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        return self._project(
            layer, "self_attn.o_proj", mixed.transpose(1, 0, 2).reshape(length, heads * size)
        )

    def _heads(self, layer: int, name: str, values: Array, *, rotated: bool) -> Array:
        """[heads, length, head size]; query and key are normed per head and rotated by position."""
        projected = self._project(layer, f"self_attn.{name}_proj", values)
        split = projected.reshape(len(values), -1, self._config["head_dim"]).transpose(1, 0, 2)
        if not rotated:
            return split
        return self._rotate(self._norm(split, f"layers.{layer}.self_attn.{name}_norm"))

    def _rotate(self, values: Array) -> Array:
        size = values.shape[-1]
        frequencies = self._config["rope_theta"] ** (-np.arange(0, size, 2) / size)
        angles = np.outer(np.arange(values.shape[1]), frequencies)
        cosine = np.cos(np.concatenate([angles, angles], axis=-1)).astype(np.float32)
        sine = np.sin(np.concatenate([angles, angles], axis=-1)).astype(np.float32)
        turned = np.concatenate([-values[..., size // 2 :], values[..., : size // 2]], axis=-1)
        return (values * cosine + turned * sine).astype(np.float32)

    def _project(self, layer: int, name: str, values: Array) -> Array:
        return values @ self._weights[f"model.layers.{layer}.{name}.weight"].T
