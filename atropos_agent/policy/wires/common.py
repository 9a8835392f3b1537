"""Shared by all formats: neutral sampling parameters, and checks of the values in a response. No padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.trajectory import (
    Completion,
    CompletionPart,
    FinishReason,
    LogprobMode,
    LogprobProvenance,
    Logprobs,
    Provenance,
    SamplingParams,
    Timings,
    TokenIds,
)

Payload: TypeAlias = Mapping[str, object]

LOWEST_LOGPROB = -9999.0
"""vLLM writes this for a probability of zero; llama.cpp writes a still lower number."""
HIGHEST_ID = 2**31 - 1
ROUNDING = 1e-4
"""A log-softmax in float32 may be this far above zero."""

FINISH_REASONS = {"stop": FinishReason.STOP, "eos": FinishReason.STOP, "word": FinishReason.STOP}
FINISH_REASONS |= {"tool_calls": FinishReason.STOP, "function_call": FinishReason.STOP}
FINISH_REASONS |= {"length": FinishReason.LENGTH, "limit": FinishReason.LENGTH}


@dataclass(frozen=True, slots=True)
class Asked:
    """The request of a reply: number of ids sent (0 if the server renders the prompt), sampling, timings."""

    prompt_tokens: int = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    timings: Timings = field(default_factory=Timings)


class Versions(NamedTuple):
    """The weight version that sampled the last token; if there are several versions, one part for each."""

    last: str | None = None
    parts: tuple[CompletionPart, ...] = ()


UNVERSIONED = Versions()


class WireFormat(Protocol):
    """One request format."""

    @property
    def wire(self) -> Wire:
        """Its name."""
        ...

    @property
    def path(self) -> str:
        """The path of the request, from the server's root."""
        ...

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request as JSON, always with n = 1 and without stop strings."""
        ...

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion in a decoded answer. Raises MalformedReply with the fault and its place."""
        ...


def openai_sampling(sampling: SamplingParams, *, extended: bool) -> dict[str, object]:
    """Sampling parameters under OpenAI's names; `extended` adds those of vLLM and llama.cpp."""
    # every parameter is sent: server defaults are not neutral (llama.cpp: top_k 40, top_p 0.95, min_p 0.05)
    asked: dict[str, object] = {
        "n": 1,
        "stream": False,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    if sampling.seed is not None:
        asked["seed"] = sampling.seed
    if extended:
        asked["top_k"] = sampling.top_k if sampling.top_k > 0 else -1
        asked["min_p"] = sampling.min_p
        asked["repetition_penalty"] = 1.0
        asked["min_tokens"] = 0
    return asked


def mode_of(found: LogprobMode, sampling: SamplingParams, truncation_shows: bool) -> LogprobMode:
    """The mode of one completion's logprobs, if the mode of the server is `found`.

    Some servers apply the temperature only (SGLang). With truncation, their logprobs are then neither raw nor
    those of the sampling distribution.
    """
    blind = found is LogprobMode.PROCESSED and not truncation_shows
    return LogprobMode.UNKNOWN if blind and sampling.truncates else found


def sampled(
    asked: Asked,
    *,
    text: str,
    ids: TokenIds,
    values: Logprobs,
    finish: FinishReason,
    mode: LogprobMode,
    usage: tuple[int | None, int | None],
    model: str,
    versions: Versions = UNVERSIONED,
    notes: tuple[str, ...] = (),
) -> Completion:
    """A completion with ids int32[n] and logprobs float32[n] as the server sampled them. `usage` has its
    counts of prompt and sampled tokens."""
    require_count(len(values), len(ids), "logprobs", "sampled ids")
    return Completion(
        text=text,
        token_ids=ids,
        logprobs=values,
        finish_reason=finish,
        provenance=Provenance.SAMPLED,
        logprob_provenance=LogprobProvenance.SAMPLED,
        logprob_mode=mode,
        usage_prompt_tokens=usage[0],
        usage_completion_tokens=usage[1],
        sampling=asked.sampling,
        timings=asked.timings,
        model=model,
        weight_version=versions.last,
        parts=versions.parts,
        notes=notes,
    )


def model_of(payload: Payload, asked_for: str) -> str:
    """The model that the answer names, else `asked_for`."""
    model = payload.get("model")
    return model if isinstance(model, str) else asked_for


def mapping(value: object, where: str) -> Payload:
    """`value` as a JSON object."""
    if not isinstance(value, dict):
        raise MalformedReply(f"{where} is {_shown(value)}, not an object")
    return value


def string(value: object, where: str) -> str:
    """`value` as a text."""
    if not isinstance(value, str):
        raise MalformedReply(f"{where} is {_shown(value)}, not a text")
    return value


def entries(value: object, where: str) -> list[Payload]:
    """`value` as a list; its elements are read where they are used."""
    if not isinstance(value, list):
        raise MalformedReply(f"{where} is {_shown(value)}, not a list")
    return value


def first_choice(payload: Payload) -> Payload:
    """`choices[0]` of an OpenAI answer."""
    choices = entries(payload.get("choices"), "choices")
    if not choices:
        raise MalformedReply("choices is empty: the server returned no completion")
    return mapping(choices[0], "choices[0]")


def finish_reason(value: object, where: str) -> FinishReason:
    """The finish reason; OTHER for an unknown text."""
    return FINISH_REASONS.get(string(value, where), FinishReason.OTHER)


def token_ids(value: object, where: str) -> TokenIds:
    """`value`, a list of non-negative integers, as int32[n]."""
    listed = entries(value, where)
    if not listed:
        return np.empty(0, np.int32)
    try:
        ids = np.array(listed)
    except (ValueError, OverflowError):
        raise MalformedReply(f"{where} is not a flat list of integers") from None
    # bools, floats, None and ragged lists give another dtype or shape; as unsigned, negative ids are huge
    if ids.dtype != np.int64 or ids.ndim != 1 or ids.view(np.uint64).max() > HIGHEST_ID:
        raise MalformedReply(f"{where} holds something that is not a token id: {_shown(value)}")
    return ids.astype(np.int32)


def logprobs(value: list[object], where: str) -> Logprobs:
    """`value`, a list of finite numbers in (-9999, 0], as float32[n]."""
    if not value:
        return np.empty(0, np.float32)
    try:
        numbers = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise MalformedReply(f"{where} holds something that is not a number: {_shown(value)}") from None
    if numbers.ndim != 1:
        raise MalformedReply(f"{where} is not a flat list of numbers")
    # negated, so that NaN is refused too
    if not (numbers.min() > LOWEST_LOGPROB and numbers.max() <= ROUNDING):
        wrong = ~((numbers > LOWEST_LOGPROB) & (numbers <= ROUNDING))
        at = int(np.flatnonzero(wrong)[0])
        raise MalformedReply(f"{where}[{at}] is {_shown(value[at])}: not a logprob of a sampled token")
    return numbers.astype(np.float32)


def require_count(found: int, expected: int, found_name: str, expected_name: str) -> None:
    """Raise MalformedReply unless both counts agree."""
    if found != expected:
        raise MalformedReply(f"{found} {found_name} for {expected} {expected_name}")


def usage_counts(
    payload: Payload, *, prompt: int | None, completion: int | None
) -> tuple[int | None, int | None]:
    """`usage.prompt_tokens` and `usage.completion_tokens`, checked against the number of ids if known.

    Detects truncation by the server, an added BOS token, and dropped tokens.
    """
    usage = payload.get("usage")
    if usage is None:
        return None, None
    counts = mapping(usage, "usage")
    return (
        checked_count(counts.get("prompt_tokens"), prompt, "usage.prompt_tokens", "prompt ids"),
        checked_count(counts.get("completion_tokens"), completion, "usage.completion_tokens", "sampled ids"),
    )


def checked_count(value: object, expected: int | None, where: str, what: str) -> int | None:
    """`value` as a count or None. Raises MalformedReply if it is neither, or differs from `expected`."""
    if value is None:
        return None
    if not isinstance(value, int):
        raise MalformedReply(f"{where} is {_shown(value)}, not a count")
    if expected is not None and value != expected:
        raise MalformedReply(f"{where} is {value} for {expected} {what}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
