"""Rollouts of schemas 1 and 2 in the form of schema 3. Schema 1 had no `breaks`; nothing else differed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atropos_agent import errors
from atropos_agent.errors import AtroposAgentError, RecordError
from atropos_agent.trajectory import Blame, Failure, FailureKind

_RESULT = ("success", "final_response", "stop_reason", "prompt_messages", "total_tokens")
_ROLLOUT = ("id", "item_id", "index", "metadata", "isolation", "started_at", "duration_s", "attempts")
_SEQUENCE = {"token_ids": "own_ids", "mask": "own_mask", "logprobs": "own_logprobs", "spans": "spans"}


def upgraded(value: Mapping[str, object], schema: int) -> Mapping[str, object]:
    """`value`, a rollout written under `schema`, as schema 3 writes it. Raises RecordError for a missing
    field."""
    if schema > 2:
        return value
    try:
        return _upgraded(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"not a rollout record of schema {schema}: {error}") from error


def _upgraded(old: Mapping[str, Any]) -> dict[str, object]:
    result = {
        **{name: old[name] for name in _RESULT},
        "metadata": old["result_metadata"],
        "breaks": old.get("breaks", []),
        "failure": None if old["error"] is None else _failure(old["error"], old["error_type"] or ""),
        "steps": [_step(step) for step in old["steps"]],
        "sequences": [{_SEQUENCE[name]: held for name, held in one.items()} for one in old["sequences"]],
    }
    trace = {"result": result, "score": old["score"], "parts": old["parts"]}
    return {**{name: old[name] for name in _ROLLOUT}, "traces": [trace]}


def _step(old: Mapping[str, Any]) -> dict[str, object]:
    step = {name: held for name, held in old.items() if name != "observation"}
    observation = old["observation"]
    step["following"] = [{"role": "user", "content": observation}] if observation else []
    return step


def _failure(text: str, error_type: str) -> dict[str, object]:
    """Older records hold only the error's type and text; kind and blame follow from the type."""
    kind = getattr(errors, error_type, None)
    if isinstance(kind, type) and issubclass(kind, AtroposAgentError):
        failure = Failure.of(kind(text))
    else:
        failure = Failure(FailureKind.OTHER, Blame.INFRASTRUCTURE, True, error_type, text)
    return {
        "kind": failure.kind,
        "blame": failure.blame,
        "retryable": failure.retryable,
        "error_type": error_type,
        "text": text,
    }
