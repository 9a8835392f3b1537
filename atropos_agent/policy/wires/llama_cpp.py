"""llama.cpp's native `/completion`: ids in, every sampled id out.

Its OpenAI format loses sampled tokens that end inside an incomplete UTF-8 sequence. Here `tokens` has all of
them, and only their entries in `completion_probabilities` are missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import orjson

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.trajectory import (
    Completion,
    LogprobMode,
    Logprobs,
    SamplingParams,
    TokenIds,
)

SEED_LIMIT = 2**32 - 1
"""Seeds are unsigned 32-bit integers; the highest one means random."""
ANSWER_FIELDS = (
    "content",
    "tokens",
    "completion_probabilities",
    "tokens_evaluated",
    "tokens_predicted",
    "stop_type",
    "truncated",
    "model",
)
# samplers that change the distribution, each switched off by name: the server may have other defaults
NEUTRAL = orjson.dumps(
    {
        "typical_p": 1.0,
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "dry_multiplier": 0.0,
        "dynatemp_range": 0.0,
        "mirostat": 0,
        "adaptive_target": -1.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": [],
        "ignore_eos": False,
        "stop": [],
        "stream": False,
        "cache_prompt": True,
        "return_tokens": True,
        "response_fields": ANSWER_FIELDS,
    }
)[1:]


@dataclass(frozen=True, slots=True)
class LlamaCppFormat:
    """`POST /completion` with `return_tokens` and `n_probs`.

    Logprobs are those of the model's own distribution, unless the request asks for probabilities after
    sampling. It does so whenever the two differ.
    """

    model: str
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    truncation_shows: bool = False
    alternatives: int = 1
    wire = Wire.LLAMA_CPP
    path = "/completion"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request; the ids are inserted as already encoded JSON."""
        asked: dict[str, object] = {
            "model": self.model,
            "n_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "n_probs": self.alternatives,
            "post_sampling_probs": not sampling.is_neutral,
        }
        if sampling.seed is not None:
            asked["seed"] = sampling.seed % SEED_LIMIT
        return b'{"prompt":[%b],%b,%b' % (prompt.encoded_ids, orjson.dumps(asked)[1:-1], NEUTRAL)

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion; `notes` has `context_full` if the end of the context cut it."""
        ids = common.token_ids(payload.get("tokens"), "tokens")
        probabilities = common.entries(
            payload.get("completion_probabilities", []), "completion_probabilities"
        )
        predicted = common.checked_count(
            payload.get("tokens_predicted"), len(ids), "tokens_predicted", "sampled ids"
        )
        evaluated = common.checked_count(
            payload.get("tokens_evaluated"), asked.prompt_tokens, "tokens_evaluated", "prompt ids"
        )
        return common.sampled(
            asked,
            text=common.string(payload.get("content"), "content"),
            ids=ids,
            values=_aligned(ids, probabilities),
            finish=common.finish_reason(payload.get("stop_type"), "stop_type"),
            mode=common.mode_of(self.logprob_mode, asked.sampling, self.truncation_shows),
            usage=(evaluated, predicted),
            model=common.model_of(payload, self.model),
            notes=("context_full",) if payload.get("truncated") is True else (),
        )


def top_logprobs(payload: Payload) -> dict[str, float]:
    """The alternatives at the first sampled position, by token id."""
    where = "completion_probabilities"
    first = common.entries(payload.get(where), where)[:1]
    found = common.mapping(first[0] if first else None, f"{where}[0]")
    top = common.entries(found.get("top_logprobs", found.get("top_probs")), f"{where}[0].top_logprobs")
    named = [common.mapping(entry, "top_logprobs[]") for entry in top]
    return {str(entry.get("id")): value for entry in named if isinstance(value := _logprob(entry), float)}


def _logprob(entry: Payload) -> object:
    """The logprob of an entry; the logarithm of its probability if the entry has that instead."""
    if "prob" not in entry:
        return entry["logprob"]
    probability = entry["prob"]
    if not isinstance(probability, float | int) or not 0.0 < probability <= 1.0 + common.ROUNDING:
        raise MalformedReply(f"completion_probabilities has the probability {probability!r}")
    return math.log(probability)


def _aligned(ids: TokenIds, probabilities: list[Payload]) -> Logprobs:
    """The logprob of each id, float32[n]; NaN for an id without an entry that certainly belongs to it.

    Entries are a subsequence of the ids. The place of an entry is certain if the leftmost and the rightmost
    way to match all entries agree. They differ only inside a run of equal ids.
    """
    try:
        named = [entry["id"] for entry in probabilities]
        listed = [_logprob(entry) for entry in probabilities]
    except (KeyError, TypeError):
        raise MalformedReply("completion_probabilities has an entry without id or logprob") from None
    given = common.logprobs(listed, "completion_probabilities.logprob")
    sampled: list[int] = ids.tolist()
    if named == sampled:
        return given
    if len(named) > len(sampled):
        raise MalformedReply(f"{len(named)} probability entries for {len(sampled)} sampled ids")
    first = _leftmost(sampled, named)
    last = [len(sampled) - 1 - i for i in reversed(_leftmost(sampled[::-1], named[::-1]))]
    aligned = np.full(len(sampled), np.nan, np.float32)
    for entry, (low, high) in enumerate(zip(first, last, strict=True)):
        if low == high:
            aligned[low] = given[entry]
    return aligned


def _leftmost(sampled: list[int], named: list[object]) -> list[int]:
    places: list[int] = []
    at = 0
    for entry, name in enumerate(named):
        while at < len(sampled) and sampled[at] != name:
            at += 1
        if at == len(sampled):
            raise MalformedReply(f"completion_probabilities[{entry}] is for id {name!r}, not sampled there")
        places.append(at)
        at += 1
    return places
