"""One JSON object as one line of bytes, and back. Independent of what the object means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from atropos_agent.errors import RecordError
from atropos_agent.trajectory import Json, Logprobs

MAX_DEPTH = 64
INTEGERS = range(-(2**63), 2**63)
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def encode_line(value: Mapping[str, object]) -> bytes:
    """`value`, JSON with numpy arrays for lists of numbers, as one line of UTF-8, newline included. A lone
    surrogate, which UTF-8 cannot hold, becomes U+FFFD. Raises RecordError for what JSON cannot hold."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError:  # rare, e.g. a lone surrogate: only then pay for a cleaned copy
        pass
    try:
        return orjson.dumps(_encodable(value), option=_OPTIONS)
    except (TypeError, RecursionError) as error:
        raise RecordError(f"cannot be written as JSON: {error}") from error


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {str(_encodable(key)): _encodable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_encodable(item) for item in value]
    return value


def decode_line(line: bytes) -> dict[str, Json]:
    """The object on `line`. Raises RecordError where it is not one JSON object."""
    try:
        value = orjson.loads(line)
    except ValueError as error:
        raise RecordError(f"not JSON: {error}; starts with {line[:60]!r}") from error
    if not isinstance(value, dict):
        raise RecordError(f"a record must be a JSON object, not {type(value).__name__}")
    return value


def free_json(value: Json, depth: int = 0) -> Json:
    """A free value of a policy, tool or environment, in a form that every JSON reader accepts.

    A number that is not finite becomes a string, an integer beyond 64 bits a hexadecimal one, and what is
    nested deeper than MAX_DEPTH levels a note. Everything else is kept as it is.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in INTEGERS else hex(value)
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        return value
    if depth >= MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, Mapping):
        return {key: free_json(item, depth + 1) for key, item in value.items()}
    return [free_json(item, depth + 1) for item in value]


def short_floats(values: Logprobs) -> list[float]:
    """`values` float32[n] as the shortest decimals that give the same float32 again."""
    packed = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    floats: list[float] = orjson.loads(packed)
    return floats
