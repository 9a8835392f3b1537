"""Response bodies in the formats of real inference servers, from a scripted text. For `fake_server` only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from atropos_agent.policy.protocol import Wire
from atropos_agent.testing.codecs import Codec
from atropos_agent.testing.fake_policy import FakeReply, fake_logprobs, version_spans
from atropos_agent.trajectory import FinishReason, Json, TokenIds

Object: TypeAlias = dict[str, object]
PROMPT_COUNT = "_prompt_count"
"""Placeholder in an encoded body for the number of prompt tokens, which differs between requests."""


class Fault(StrEnum):
    """One fault of a server."""

    STALL = "stall"
    STALL_MID_BODY = "stall in mid-body"
    RESET = "reset"
    CUT_BODY = "cut body"
    BUSY = "429"
    INTERNAL_ERROR = "500"
    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    MODEL_NOT_FOUND = "404 model"
    CONTEXT_OVERFLOW = "context overflow"
    HTML = "html"
    EMPTY_CHOICES = "empty choices"
    NULL_CONTENT = "null content"
    MISSING_IDS = "missing ids"
    MISSING_LOGPROB = "one logprob too few"
    NULL_LOGPROB = "null logprob"
    SENTINEL_LOGPROB = "sentinel logprob"
    POSITIVE_LOGPROB = "positive logprob"
    NAN_LOGPROB = "NaN logprob"
    DOUBLED_END = "doubled end of turn"
    WRONG_PROMPT_USAGE = "wrong prompt usage"
    WRONG_COMPLETION_USAGE = "wrong completion usage"
    NO_FINISH_REASON = "no finish reason"


REFUSALS: Mapping[Fault, tuple[int, Object]] = {
    Fault.BUSY: (429, {"error": {"message": "too many requests", "type": "rate_limit_error"}}),
    Fault.INTERNAL_ERROR: (500, {"error": {"message": "engine died", "type": "internal_error"}}),
    Fault.BAD_REQUEST: (400, {"error": {"message": "bad parameter", "type": "invalid_request_error"}}),
    Fault.UNAUTHORIZED: (401, {"error": {"message": "bad key", "type": "authentication_error"}}),
    Fault.MODEL_NOT_FOUND: (
        404,
        {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model"}},
    ),
}
OVERFLOWS: Mapping[Wire, Object] = {
    Wire.LLAMA_CPP: {
        "error": {
            "code": 400,
            "message": "request (9 tokens) exceeds the available context size (8 tokens), try increasing it",
            "type": "exceed_context_size_error",
        }
    },
    Wire.VLLM: {
        "error": {
            "message": "This model's maximum context length is 8 tokens. However, you requested 9 tokens.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    },
}


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A scripted completion before it becomes a body: `ids` int32[n] with the stop token, logprobs, text.

    `message` has the fields that the server's parsers make of the text (None without parsers), `versions` the
    spans of its weight versions (empty if the script has none).
    """

    ids: TokenIds
    logprobs: list[float | None]
    pieces: tuple[bytes, ...]
    text: str
    finish_reason: FinishReason
    message: Mapping[str, Json] | None
    versions: list[Object]


def sampled(
    reply: FakeReply, codec: Codec, stop_id: int | None, max_tokens: int | None, fault: Fault | None = None
) -> Sampled:
    """Encode a scripted reply, end it with the stop token, cut it at `max_tokens`."""
    encoded = codec.encode(reply.text) if reply.token_ids is None else reply.token_ids
    ids = np.asarray(encoded, np.int32)
    reason, text, message = reply.finish_reason, reply.text, reply.message
    if reply.token_ids is None and reason is FinishReason.STOP and stop_id is not None:
        ends = 2 if fault is Fault.DOUBLED_END else 1
        ids = np.append(ids, np.full(ends, stop_id, np.int32))
        text += codec.decode(ids[-1:]) * (ends - 1)
    if max_tokens is not None and 0 <= max_tokens < len(ids):
        ids, reason = ids[:max_tokens], FinishReason.LENGTH
        text, message = codec.decode(ids), None
    given = fake_logprobs(ids) if reply.logprobs is None else np.asarray(reply.logprobs, np.float32)
    spelt = codec.token_bytes(ids.tolist())
    pieces = tuple(b"" if i == stop_id else piece for i, piece in zip(ids, spelt, strict=True))
    versions = version_spans(reply.weight_versions, len(ids))
    return Sampled(ids, [float(value) for value in given], pieces, text, reason, message, versions)


def native(
    done: Sampled, model: str, fault: Fault | None, *, sharpness: float = 1.0, probabilities: bool = False
) -> Object:
    """llama.cpp's `/completion`; with probabilities after sampling if `probabilities`."""
    alternatives = enumerate(_tops(sharpness).values())
    tops: list[Object] = [{"id": token, "logprob": value} for token, value in alternatives]
    entries: list[Object] = [
        {"id": int(i), "token": "", "bytes": list(piece), "logprob": value, "top_logprobs": tops}
        for i, piece, value in zip(done.ids, done.pieces, spoilt(done.logprobs, fault), strict=False)
    ]
    if probabilities:
        after: list[object] = [_after_sampling(top) for top in tops]
        entries = [{**_after_sampling(entry), "top_probs": after} for entry in entries]
    stop = "eos" if done.finish_reason is FinishReason.STOP else "limit"
    body: Object = {
        "content": None if fault is Fault.NULL_CONTENT else done.text,
        "tokens": done.ids.tolist(),
        "completion_probabilities": entries,
        "stop_type": None if fault is Fault.NO_FINISH_REASON else stop,
        "truncated": False,
        "model": model,
        "tokens_predicted": len(done.ids) + (fault is Fault.WRONG_COMPLETION_USAGE),
        "tokens_evaluated": PROMPT_COUNT,
    }
    if fault is Fault.MISSING_IDS:
        del body["tokens"]
    if fault is Fault.MISSING_LOGPROB:
        entries[-1]["id"] = -1  # a missing entry would be legal here: llama.cpp omits those of broken UTF-8
    return body


def _after_sampling(entry: Object) -> Object:
    """An entry with its probability in place of its logprob."""
    value = entry["logprob"]
    probability = math.exp(value) if isinstance(value, float) else None
    kept = {name: entry[name] for name in entry if name not in ("logprob", "top_logprobs")}
    return {**kept, "prob": probability}


def sglang(done: Sampled, fault: Fault | None, *, sharpness: float) -> Object:
    """SGLang's `/generate`."""
    values = spoilt(done.logprobs, fault)
    entries = [[value, int(i), None] for i, value in zip(done.ids, values, strict=False)]
    tops = [[value, token, None] for token, value in enumerate(_tops(sharpness).values())]
    kind: Object = {"type": _reason(done, fault)}
    kind |= {"length": len(done.ids)} if done.finish_reason is FinishReason.LENGTH else {"matched": 0}
    meta: Object = {
        "id": "fake",
        "finish_reason": None if fault is Fault.NO_FINISH_REASON else kind,
        "prompt_tokens": PROMPT_COUNT,
        "completion_tokens": len(done.ids) + (fault is Fault.WRONG_COMPLETION_USAGE),
        "weight_version": done.versions[-1]["version"] if done.versions else "default",
        "output_token_logprobs": None if fault is Fault.MISSING_IDS else entries,
        "output_top_logprobs": [tops],
    }
    if done.versions:
        meta["weight_versions"] = done.versions
    text = None if fault is Fault.NULL_CONTENT else done.text
    return {"text": text, "output_ids": done.ids.tolist(), "meta_info": meta}


def generate(done: Sampled, model: str, fault: Fault | None, *, sharpness: float) -> Object:
    """vLLM's `/inference/v1/generate`."""
    tops = [{"token_id": token, "logprob": value} for token, value in enumerate(_tops(sharpness).values())]
    values = spoilt(done.logprobs, fault)
    entries = [
        {"token_id": int(i), "logprob": value, "top_logprobs": tops}
        for i, value in zip(done.ids, values, strict=False)
    ]
    choice: Object = {
        "index": 0,
        "token_ids": None if fault is Fault.MISSING_IDS else done.ids.tolist(),
        "logprobs": {"content": entries},
        "finish_reason": _reason(done, fault),
    }
    versions = done.versions or version_spans({"1": 0}, len(done.ids))
    return {**_openai(choice, done, model, fault), "weight_versions": versions}


def classic(done: Sampled, model: str, fault: Fault | None, *, ids: bool, sharpness: float) -> Object:
    """`/v1/completions`: vLLM's with ids and classic logprob arrays, or text alone."""
    choice: Object = {
        "index": 0,
        "text": None if fault is Fault.NULL_CONTENT else done.text,
        "finish_reason": _reason(done, fault),
        "logprobs": None,
    }
    if ids:
        values = spoilt(done.logprobs, fault)
        choice["logprobs"] = {"token_logprobs": values, "tokens": [], "top_logprobs": [_tops(sharpness)]}
        choice["token_ids"] = None if fault is Fault.MISSING_IDS else done.ids.tolist()
    return _openai(choice, done, model, fault)


def chat(
    done: Sampled,
    model: str,
    fault: Fault | None,
    *,
    wire: Wire,
    prompt_ids: list[int] | None,
    sharpness: float,
) -> Object:
    """`/v1/chat/completions`: with ids (`prompt_ids` given), with entries (llama.cpp, OpenAI), or plain."""
    content = None if fault is Fault.NULL_CONTENT else done.text
    choice: Object = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **(done.message or {})},
        "finish_reason": "tool_calls" if (done.message or {}).get("tool_calls") else _reason(done, fault),
        "logprobs": None,
    }
    if wire is not Wire.CHAT:
        values = spoilt(done.logprobs, fault)
        found: list[Object] = [
            {"token": piece.decode(errors="replace"), "bytes": list(piece), "logprob": value}
            for piece, value in zip(done.pieces, values, strict=False)
        ]
        for entry, token_id in zip(found, done.ids.tolist(), strict=False):
            entry["top_logprobs"] = [{"token": t, "logprob": v} for t, v in _tops(sharpness).items()]
            if wire is Wire.LLAMA_CPP:
                entry["id"] = token_id
        choice["logprobs"] = None if fault is Fault.MISSING_IDS else {"content": found}
    body = _openai(choice, done, model, fault)
    if prompt_ids is not None:
        choice["token_ids"] = None if fault is Fault.MISSING_IDS else done.ids.tolist()
        body = {"prompt_token_ids": prompt_ids, **body}
    if done.versions:
        body["metadata"] = {"weight_version": done.versions[-1]["version"], "weight_versions": done.versions}
    return body


def encoded(body: Object, fault: Fault | None) -> tuple[bytes, bytes]:
    """The JSON before and after the number of prompt tokens."""
    if fault is Fault.EMPTY_CHOICES:
        body = {**body, "choices": []} if "choices" in body else {"model": "fake"}
    text = json.dumps(body, ensure_ascii=False).encode()  # writes a NaN as some servers do
    head, _, tail = text.partition(b'"%b"' % PROMPT_COUNT.encode())
    return head, tail


def _openai(choice: Object, done: Sampled, model: str, fault: Fault | None) -> Object:
    wrong = fault is Fault.WRONG_COMPLETION_USAGE
    usage: Object = {"completion_tokens": len(done.ids) + wrong, "prompt_tokens": PROMPT_COUNT}
    return {"id": "fake", "object": "completion", "model": model, "choices": [choice], "usage": usage}


def _reason(done: Sampled, fault: Fault | None) -> str | None:
    return None if fault is Fault.NO_FINISH_REASON else str(done.finish_reason)


def _tops(sharpness: float) -> dict[str, float]:
    """The alternatives of every position; with infinite `sharpness` only the first remains."""
    if sharpness == math.inf:
        return {"token_id:0": 0.0}
    return {"token_id:0": -0.75 * sharpness, "token_id:1": -1.5 * sharpness}


def spoilt(values: Sequence[float | None], fault: Fault | None) -> list[float | None]:
    """`values` with the last one replaced or removed, as `fault` says."""
    values = [*values]
    if fault is Fault.MISSING_LOGPROB:
        return values if len(values) < 2 else values[:-1]
    wrong: dict[Fault, float | None] = {
        Fault.NULL_LOGPROB: None,
        Fault.SENTINEL_LOGPROB: -9999.0,
        Fault.POSITIVE_LOGPROB: 0.7,
        Fault.NAN_LOGPROB: math.nan,
    }
    return [*values[:-1], wrong[fault]] if fault is not None and fault in wrong else values
