"""Turn error responses into typed errors with URL, status, body and attempts."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from atropos_agent.errors import ContextOverflow, ModelNotFound, ServerRefused

BODY_SHOWN = 400
CONTEXT_PHRASES = ("context length", "context size", "longer than the maximum model length", "context window")
SHAPE_STATUSES = frozenset({400, 404, 405, 415, 422, 501})
"""The statuses that can mean "this request format is not supported". Any other is about the moment."""
CONTEXT_CODES = ("exceed_context_size_error", "context_length_exceeded")


def shown_body(body: bytes) -> str:
    """The first part of a body on one line."""
    text = " ".join(body[: 4 * BODY_SHOWN].decode(errors="replace").split())
    if len(text) > BODY_SHOWN:
        return f"{text[:BODY_SHOWN]}..."
    return text or "(empty body)"


def refusal(url: str, status: int, body: bytes, *, attempts: int, model: str) -> ServerRefused:
    """The typed error for a response with an error status."""
    fault = _fault(body)
    message = str(fault.get("message", ""))
    codes = {str(fault.get(name, "")) for name in ("type", "code", "param")}
    tried = "" if attempts == 1 else f" (attempt {attempts})"
    text = f"{url} answered {status}{tried}: {shown_body(body)}"
    lowered = message.lower()
    # vLLM has no error code for a prompt that is too long: only its message tells
    overflows = any(phrase in lowered for phrase in CONTEXT_PHRASES) or not codes.isdisjoint(CONTEXT_CODES)
    if status in (400, 413, 422) and overflows:
        return ContextOverflow(text)
    names_model = "model" in codes or "model_not_found" in codes
    unknown = "model" in lowered and ("not exist" in lowered or "not found" in lowered)
    if status in (400, 404) and (names_model or unknown):
        return ModelNotFound(f"no model {model!r}: {text}")
    return ServerRefused(text)


def _fault(body: bytes) -> Mapping[str, object]:
    """The error object of the OpenAI shape, of older vLLM's flat shape, or an empty one."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(payload, dict):
        return {}
    fault = payload.get("error", payload)
    return fault if isinstance(fault, dict) else {"message": fault}
