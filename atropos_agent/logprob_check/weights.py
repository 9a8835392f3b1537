"""Teacher forcing through a checkpoint: transformers and torch, in float32."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from atropos_agent.errors import ConfigError
from atropos_agent.trajectory import Logprobs, TokenIds

LOGITS_AT_ONCE = 2**27
"""Numbers in one block of logits: 512 MB in float32."""
CACHES = ("cache", "past_key_values")
"""What transformers calls a model's cache since 5.20, and before."""


class Weights:
    """A checkpoint, by folder or hub name, as a source of logprobs. On a GPU where torch sees one.

    Raises ConfigError where torch is missing or `model` cannot be loaded.
    """

    any_temperature = True

    def __init__(self, model: str) -> None:
        self._torch = _torch()
        from transformers import AutoModelForCausalLM

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=self._torch.float32)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"--model {model}: no weights can be loaded: {error}") from error
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._model = loaded.to(self._device).eval()
        parameters = inspect.signature(loaded.forward).parameters
        self._cache = next((name for name in CACHES if name in parameters), None)
        self._vocabulary: int = loaded.config.get_text_config().vocab_size
        self.name: str = model

    async def logprobs(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """Each token's logprob after those before it, float32[n] a sequence, NaN for its first token."""
        for ids in sequences:
            if len(ids) and ids.max() >= self._vocabulary:
                raise ConfigError(
                    f"the run holds token id {ids.max()}, {self.name} knows 0 to {self._vocabulary - 1}: "
                    "give the model that the run was sampled from"
                )
        scored: dict[int, Logprobs] = {}
        for places in self._batches(sequences):
            batch = [sequences[place] for place in places]
            scored.update(zip(places, self._forced(batch, temperature), strict=True))
        return [scored[place] for place in range(len(sequences))]

    def _batches(self, sequences: Sequence[TokenIds]) -> Iterator[list[int]]:
        """Places of sequences of like length that fit one block of logits together, longest first."""
        batch: list[int] = []
        for place in sorted(range(len(sequences)), key=lambda place: -len(sequences[place])):
            width = len(sequences[batch[0]]) if batch else 0
            if batch and (len(batch) + 1) * width * self._vocabulary > LOGITS_AT_ONCE:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _forced(self, batch: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """One batch, padded on the right, in pieces that fit one block of logits."""
        torch = self._torch
        # Attention is causal: padding on the right does not change the logits before it.
        width = max(len(ids) for ids in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        attended = torch.zeros((len(batch), width), dtype=torch.long)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
            attended[row, : len(sequence)] = 1
        ids, attended = ids.to(self._device), attended.to(self._device)
        # Without a cache a piece could not attend to the ones before it: then everything is one piece.
        piece = max(1, LOGITS_AT_ONCE // (len(batch) * self._vocabulary)) if self._cache else width
        found, kept = np.full((len(batch), width), np.nan, np.float32), dict[str, object]()
        with torch.inference_mode():
            for start in range(0, width - 1, piece):
                end = min(start + piece, width - 1)
                asked = {"input_ids": ids[:, start:end], "attention_mask": attended[:, :end]}
                out = self._model(**asked, **kept, use_cache=True)
                kept = {self._cache: getattr(out, self._cache)} if self._cache else {}
                after = torch.log_softmax(out.logits.float() / temperature, dim=-1)
                next_ids = ids[:, start + 1 : end + 1, None]
                found[:, start + 1 : end + 1] = after.gather(-1, next_ids)[..., 0].cpu().numpy()
        return [found[row, : len(sequence)] for row, sequence in enumerate(batch)]


def _torch() -> ModuleType:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ConfigError("--model needs torch: pip install 'atropos-agent[check]'") from error
