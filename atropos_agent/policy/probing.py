"""Probe what a server can do. Only response bodies count: servers answer 200 to parameters they ignore."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import orjson

from atropos_agent.errors import MalformedReply, ModelNotFound, ProviderError, ServerRefused
from atropos_agent.policy.failures import SHAPE_STATUSES, refusal, shown_body
from atropos_agent.policy.protocol import Capabilities, Prompt, Wire
from atropos_agent.policy.transport import Reply, Transport
from atropos_agent.policy.wires import (
    ChatFormat,
    LlamaCppFormat,
    SglangFormat,
    TextFormat,
    VllmFormat,
    VllmGenerateFormat,
    WireFormat,
    chat,
    common,
    llama_cpp,
    sglang,
    vllm,
    vllm_generate,
)
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.trajectory import Completion, LogprobMode, SamplingParams

logger: logging.Logger = logging.getLogger(__name__)

PROBE_IDS = (1, 2)
PROBE_TEXT = "Hello"
ONE_TOKEN = SamplingParams(max_tokens=1, seed=1)
ALTERNATIVES = 5
SAME_LOGPROB = 1e-2
"""Logprobs of the same token that differ by less count as equal, in nats."""
SHARP = SamplingParams(temperature=0.25, max_tokens=1, seed=1)
"""Changes every logprob but those of a server that reports raw ones."""
NARROW = SamplingParams(top_p=1e-6, max_tokens=1, seed=1)
"""Keeps one token: its logprob is 0 if the server's logprobs include truncation."""


@dataclass(frozen=True, slots=True)
class Served:
    """The content of `/v1/models`; all fields are empty if the server has no such list."""

    models: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    owner: str = ""
    context_length: int | None = None


async def probe(
    transport: Transport, model: str | None, wire: Wire | None
) -> tuple[WireFormat, Capabilities]:
    """The best format that the server answers correctly, and its capabilities. `wire` forces a format.

    A format is skipped only if the answer shows that the server does not support it. Raises
    ServerUnreachable, ModelNotFound, ServerRefused (busy, broken, or not authorized), MalformedReply (cut
    off), or ProviderError with every format tried.
    """
    served = await _served(transport)
    name = _model_name(served, model, transport.origin)
    refusals: list[str] = []
    for candidate in _candidates(name, wire):
        reply = await _tried(transport, candidate, ONE_TOKEN)
        try:
            _read(transport, candidate, ONE_TOKEN, reply)
        except ModelNotFound:  # a ServerRefused, but no other format would change it
            raise
        except (MalformedReply, ServerRefused) as error:
            refusals.append(f"{candidate.wire}: {error}")
            continue
        return await _described(transport, candidate, served, name)
    raise ProviderError(f"{transport.origin} supports no known request format. " + " | ".join(refusals))


async def ask(transport: Transport, wire_format: WireFormat, sampling: SamplingParams) -> Completion:
    """One tiny completion. Raises ServerRefused or MalformedReply."""
    return _read(transport, wire_format, sampling, await _tried(transport, wire_format, sampling))


async def _tried(transport: Transport, wire_format: WireFormat, sampling: SamplingParams) -> Reply:
    """The answer to one tiny request. Raises as `_telling` does."""
    body = wire_format.body(_probe_prompt(), sampling)
    reply = await transport.send("POST", wire_format.path, body)
    return _telling(reply, transport.origin + wire_format.path, model=_model_of(wire_format))


def _telling(reply: Reply, url: str, *, model: str) -> Reply:
    """`reply`, if it shows what the server can do. Raises ServerRefused for a temporary failure: it must not
    make the probe choose a worse format."""
    if 200 <= reply.status < 300 or reply.status in SHAPE_STATUSES:
        return reply
    raise refusal(url, reply.status, reply.body, attempts=reply.attempts, model=model)


def _read(
    transport: Transport, wire_format: WireFormat, sampling: SamplingParams, reply: Reply
) -> Completion:
    payload = decoded(reply, transport.origin + wire_format.path, model=_model_of(wire_format))
    completion = wire_format.read(payload, Asked(len(_probe_prompt()), sampling))
    if wire_format.wire.gives_ids and completion.token_ids is None and completion.token_bytes is None:
        raise MalformedReply("no token ids and no token bytes in the answer")
    return completion


def decoded(reply: Reply, url: str, *, model: str) -> Payload:
    """The JSON object of a 200. Raises ServerRefused (and its kinds) or MalformedReply."""
    if not 200 <= reply.status < 300:
        raise refusal(url, reply.status, reply.body, attempts=reply.attempts, model=model)
    try:
        payload = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise MalformedReply(f"{url} did not answer JSON ({error}): {shown_body(reply.body)}") from None
    if not isinstance(payload, dict):
        raise MalformedReply(
            f"{url} answered {type(payload).__name__}, not an object: {shown_body(reply.body)}"
        )
    return payload


async def _served(transport: Transport) -> Served:
    url = f"{transport.origin}/v1/models"
    reply = _telling(await transport.send("GET", "/v1/models"), url, model="")
    try:
        listed = decoded(reply, url, model="").get("data")
        models = [common.mapping(entry, "data[]") for entry in common.entries(listed, "data")]
        names = tuple(common.string(entry.get("id"), "data[].id") for entry in models)
    except ProviderError as error:
        logger.warning("no list of models: %s", error)
        return Served()
    if not models:
        return Served()
    first = models[0]
    aliases = [alias for entry in models for alias in _texts(entry.get("aliases"))]
    meta = first.get("meta")
    length = first.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return Served(
        models=names,
        aliases=tuple(aliases),
        owner=str(first.get("owned_by") or ""),
        context_length=length if isinstance(length, int) else None,
    )


def _model_name(served: Served, model: str | None, origin: str) -> str:
    listed = ", ".join(served.models) or "no list of models"
    if model is None:
        if len(served.models) == 1:
            return served.models[0]
        raise ModelNotFound(f"{origin} serves {listed}: name the model to use")
    if not served.models or model in served.models or model in served.aliases:
        return model
    if served.owner == "llamacpp" and len(served.models) == 1:
        # llama.cpp ignores the name in a request: what answers is its one model
        logger.warning("%s serves only %s and ignores the requested model %s", origin, listed, model)
        return served.models[0]
    raise ModelNotFound(f"no model {model!r} at {origin}; it serves {listed}")


def _candidates(model: str, wire: Wire | None) -> Iterator[WireFormat]:
    """Best first. Each OpenAI format is tried with the parameters of vLLM and llama.cpp, then without them:
    strict servers refuse unknown fields."""
    shapes: dict[Wire, tuple[WireFormat, ...]] = {
        Wire.LLAMA_CPP: (LlamaCppFormat(model),),
        Wire.SGLANG: tuple(SglangFormat(model, seeded=seeded) for seeded in (True, False)),
        Wire.VLLM: (VllmFormat(model),),
        Wire.VLLM_GENERATE: (VllmGenerateFormat(model),),
        Wire.CHAT_IDS: (ChatFormat(model, Wire.CHAT_IDS),),
        Wire.CHAT_LOGPROBS: tuple(ChatFormat(model, Wire.CHAT_LOGPROBS, extended=e) for e in (True, False)),
        Wire.TEXT: tuple(TextFormat(model, extended=e) for e in (True, False)),
        Wire.CHAT: tuple(ChatFormat(model, Wire.CHAT, extended=e) for e in (True, False)),
    }
    for name in shapes if wire is None else (wire,):
        yield from shapes[name]


async def _described(
    transport: Transport, found: WireFormat, served: Served, model: str
) -> tuple[WireFormat, Capabilities]:
    capabilities = Capabilities(
        wire=found.wire,
        model=model,
        server=served.owner or "unknown",
        context_length=served.context_length,
        models=served.models,
    )
    if isinstance(found, _TellsLogprobs) and found.wire.gives_ids:
        mode, truncation_shows = await _logprob_mode(transport, replace(found, alternatives=ALTERNATIVES))
        found = replace(found, logprob_mode=mode, truncation_shows=truncation_shows)
        capabilities = replace(capabilities, logprob_mode=mode)
    if isinstance(found, LlamaCppFormat):
        return found, await _with_props(transport, replace(capabilities, server="llama.cpp"))
    return found, capabilities


_TellsLogprobs = LlamaCppFormat | SglangFormat | VllmFormat | VllmGenerateFormat | ChatFormat
_ALTERNATIVES: Mapping[type, Callable[[Payload], dict[str, float]]] = {
    LlamaCppFormat: llama_cpp.top_logprobs,
    SglangFormat: sglang.top_logprobs,
    VllmFormat: vllm.top_logprobs,
    VllmGenerateFormat: vllm_generate.top_logprobs,
    ChatFormat: chat.top_logprobs,
}


async def _logprob_mode(transport: Transport, wide: WireFormat) -> tuple[LogprobMode, bool]:
    """RAW if temperature does not change the alternatives of one position, else PROCESSED; and whether their
    logprobs include truncation of the distribution."""
    try:
        plain, sharp = [await _alternatives(transport, wide, sampling) for sampling in (ONE_TOKEN, SHARP)]
        common_tokens = plain.keys() & sharp.keys()
        # a position where one token has all the probability looks the same at every temperature
        tells = len(common_tokens) > 1 and max(plain.values()) < -SAME_LOGPROB
        if not any(abs(plain[token] - sharp[token]) > SAME_LOGPROB for token in common_tokens):
            return LogprobMode.RAW if tells else LogprobMode.UNKNOWN, False
        narrow = await _alternatives(transport, wide, NARROW)
    except (MalformedReply, ServerRefused) as error:
        logger.warning("logprob mode unknown: %s", error)
        return LogprobMode.UNKNOWN, False
    return LogprobMode.PROCESSED, tells and max(narrow.values(), default=-1.0) >= -SAME_LOGPROB


async def _alternatives(transport: Transport, wide: WireFormat, sampling: SamplingParams) -> dict[str, float]:
    """The likeliest tokens of the first position, with their logprobs."""
    reply = await _tried(transport, wide, sampling)
    url = transport.origin + wide.path
    return _ALTERNATIVES[type(wide)](decoded(reply, url, model=_model_of(wide)))


async def _with_props(transport: Transport, capabilities: Capabilities) -> Capabilities:
    """Add the context of one slot and the end-of-turn id, if llama.cpp reports them."""
    # the context of its slot limits a request, not that of the whole server
    props = _object(await transport.send("GET", "/props"))
    settings = props.get("default_generation_settings")
    length = settings.get("n_ctx") if isinstance(settings, dict) else None
    if isinstance(length, int):
        capabilities = replace(capabilities, context_length=length)
    if isinstance(end := props.get("eos_token"), str) and end:
        asked = orjson.dumps({"content": end, "parse_special": True, "add_special": False})
        ids = _object(await transport.send("POST", "/tokenize", asked)).get("tokens")
        if isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], int):
            capabilities = replace(capabilities, stop_ids=(ids[0],))
    return capabilities


def _object(reply: Reply) -> Payload:
    try:
        return decoded(reply, "", model="")
    except ProviderError:
        return {}


def _probe_prompt() -> Prompt:
    prompt = Prompt([{"role": "user", "content": PROBE_TEXT}])
    prompt.extend(np.array(PROBE_IDS, np.int32), PROBE_TEXT)
    return prompt


def _model_of(wire_format: WireFormat) -> str:
    return getattr(wire_format, "model", "")


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
