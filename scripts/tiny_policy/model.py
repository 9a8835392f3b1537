"""Qwen3 in plain torch. The system prompt is computed once for a whole batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model, named as in a Qwen3 config."""

    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    head_dim: int = 32
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6

    def to_config(self, eos_id: int, pad_id: int) -> dict[str, object]:
        """The config.json of `Qwen3ForCausalLM`."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "use_cache": True,
            "use_sliding_window": False,
            "bos_token_id": None,
            "eos_token_id": eos_id,
            "pad_token_id": pad_id,
            "dtype": "float16",
        }


class Norm(nn.Module):
    """RMS norm over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., size]."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
        )
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, shape.hidden_size, bias=False)
        self.q_norm = Norm(self.head_dim, shape.rms_norm_eps)
        self.k_norm = Norm(self.head_dim, shape.rms_norm_eps)

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, K, T, D] of x [B, T, hidden]."""
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.heads, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        return rotate(q, rope), rotate(k, rope), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Output [B, T, hidden]; `mask` [T, S] is 0 where a query may look, -inf elsewhere."""
        batch, _, length, _ = q.shape
        grouped = q.reshape(batch, self.kv_heads, -1, self.head_dim) * self.head_dim**-0.5
        scores = (grouped @ k.transpose(2, 3)).view(batch, self.heads, length, -1) + mask.to(q.dtype)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        mixed = weights.view(batch, self.kv_heads, -1, k.shape[2]) @ v
        return self.o_proj(mixed.view(batch, self.heads, length, -1).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [..., hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One block, applied to the common prefix [1, P, hidden] and to the rows [B, T, hidden] after it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(
        self,
        prefix: Tensor,
        x: Tensor,
        *,
        ropes: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
        masks: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Next prefix and rows; `ropes` and `masks` are those of the prefix and of the rows."""
        attention = self.self_attn
        pq, pk, pv = attention.project(self.input_layernorm(prefix), ropes[0])
        q, k, v = attention.project(self.input_layernorm(x), ropes[1])
        batch = x.shape[0]
        k = torch.cat([pk.expand(batch, -1, -1, -1), k], dim=2)
        v = torch.cat([pv.expand(batch, -1, -1, -1), v], dim=2)
        prefix = prefix + attention.attend(pq, pk, pv, masks[0])
        x = x + attention.attend(q, k, v, masks[1])
        prefix = prefix + self.mlp(self.post_attention_layernorm(prefix))
        return prefix, x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)


class TinyPolicy(nn.Module):
    """Parameter names are those of transformers' `Qwen3ForCausalLM` with tied embeddings."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 if "embed" in name else parameter.shape[1] ** -0.5)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)  # each block starts as the identity

    def forward(self, prefix_ids: Tensor, ids: Tensor) -> Tensor:
        """Final hidden states [B, T, hidden] of `ids` [B, T], each row after the same `prefix_ids` [P]."""
        start, length = len(prefix_ids), ids.shape[1]
        rope = rope_tables(start + length, self.shape)
        ropes = (tuple(table[:start] for table in rope), tuple(table[start:] for table in rope))
        masks = causal_mask(start, 0), causal_mask(length, start)
        prefix, x = self.model.embed_tokens(prefix_ids[None]), self.model.embed_tokens(ids)
        for layer in self.model.layers:
            prefix, x = layer(prefix, x, ropes=ropes, masks=masks)
        return self.model.norm(x)

    def loss(self, hidden: Tensor, ids: Tensor, trained: Tensor) -> Tensor:
        """Mean cross-entropy over the tokens where `trained` [B, T] is True (never the first of a row).

        `hidden` [B, T - 1, hidden] is what `forward` gives for all but the last token.
        """
        logits = F.linear(hidden[trained[:, 1:]], self.model.embed_tokens.weight)
        return F.cross_entropy(logits.float(), ids[:, 1:][trained[:, 1:]])


def causal_mask(length: int, before: int) -> Tensor:
    """Additive mask [length, before + length] for rows that follow `before` common positions."""
    allowed = torch.ones(length, before + length, dtype=torch.bool).tril(before)
    return torch.zeros(length, before + length).masked_fill(~allowed, float("-inf"))


def rope_tables(length: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, D] of the rotary embedding, halves layout."""
    frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.arange(length).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of x [B, H, T, D]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rope[0].to(x.dtype), rope[1].to(x.dtype)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
