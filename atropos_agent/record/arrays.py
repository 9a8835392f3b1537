"""Arrays as JSON, exact and without NaN: masks as runs, sparse logprobs, references, typed side arrays.

Ids and logprobs stay numpy arrays in what is written: orjson writes them as lists, a float32 as the shortest
decimal that gives the same float32 again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, TypeAdapter

from atropos_agent.errors import RecordError
from atropos_agent.trajectory import Logprobs, Mask, TokenIds

SIDE_KINDS = "biufc"
"""numpy's letters for booleans, integers, floats and complex numbers: what a side array may hold."""

_INTEGERS: TypeAdapter[list[int]] = TypeAdapter(list[int])
_FLOATS: TypeAdapter[list[float]] = TypeAdapter(list[float])


def _as_ids(value: object) -> object:
    if isinstance(value, list):
        return np.array(_INTEGERS.validate_python(value), np.int32)
    return value


def _as_floats(value: object) -> object:
    if isinstance(value, list):
        return np.array(_FLOATS.validate_python(value), np.float32)
    return value


IdArray = Annotated[NDArray[np.int32], BeforeValidator(_as_ids)]
FloatArray = Annotated[NDArray[np.float32], BeforeValidator(_as_floats)]


@dataclass(frozen=True, slots=True)
class Range:
    """Positions [start, end) of the step's own sequence."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sparse:
    """float32[length]: `values` in order at the runs `at`, NaN elsewhere."""

    length: int
    at: list[tuple[int, int]]
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Side:
    """An array of any numeric dtype: its bytes, little-endian, in C order."""

    dtype: str
    shape: tuple[int, ...]
    base64: str


Runs: TypeAlias = list[tuple[int, int]]


def runs(flags: Mask) -> list[list[int]]:
    """[start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(flags.view(np.int8), prepend=0, append=0))
    found: list[list[int]] = edges.reshape(-1, 2).tolist()
    return found


def flags(found: Sequence[tuple[int, int]], length: int) -> Mask:
    """The mask bool[length] with these runs. Raises RecordError for a run outside it."""
    held = np.zeros(length, dtype=np.bool_)
    for start, end in found:
        if not 0 <= start < end <= length:
            raise RecordError(f"a run [{start}, {end}) lies outside {length} positions")
        held[start:end] = True
    return held


def sparse(logprobs: Logprobs) -> dict[str, object]:
    """The logprobs that exist, in order, and the runs of positions where they stand. Raises RecordError for
    an infinite one."""
    present = ~np.isnan(logprobs)
    values = np.ascontiguousarray(logprobs[present], np.float32)
    if np.isinf(values).any():
        raise RecordError("a logprob is infinite; a logprob that the server did not give must be NaN")
    return {"length": len(logprobs), "at": runs(present), "values": values}


def dense(held: Sparse) -> Logprobs:
    """float32[length] of what `sparse` wrote. Raises RecordError, ValueError."""
    values = np.full(held.length, np.nan, dtype=np.float32)
    values[flags(held.at, held.length)] = held.values
    return values


def reference(values: NDArray[Any] | None, whole: NDArray[Any] | None, start: int) -> object | None:
    """[start, end) of `whole` if it holds exactly `values` from `start` on; None if it does not."""
    if values is None or whole is None:
        return None
    end = start + len(values)
    same = whole[start:end]  # compared as bytes, because NaN does not equal NaN
    if same.dtype == values.dtype and len(same) == len(values) and same.tobytes() == values.tobytes():
        return {"start": start, "end": end}
    return None


def ids(values: TokenIds) -> NDArray[np.int32]:
    """Ids as orjson takes them."""
    return np.ascontiguousarray(values, np.int32)


def side(values: NDArray[np.generic]) -> dict[str, object]:
    """An array with its dtype. Raises RecordError for one that holds objects."""
    if values.dtype.kind not in SIDE_KINDS:
        raise RecordError(f"a side array of dtype {values.dtype} cannot be recorded; numbers and bools can")
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    text = base64.b64encode(little.tobytes()).decode()
    return {"dtype": values.dtype.str, "shape": list(values.shape), "base64": text}


def side_of(held: Side) -> NDArray[np.generic]:
    """The array that `side` wrote. Raises RecordError."""
    try:
        dtype = np.dtype(held.dtype)
        content = base64.b64decode(held.base64, validate=True)
        values = np.frombuffer(content, dtype.newbyteorder("<")).reshape(held.shape)
        return values.astype(dtype)
    except (TypeError, ValueError, binascii.Error) as error:
        raise RecordError(f"a side array of dtype {held.dtype!r} cannot be read: {error}") from error


def sides(held: Mapping[str, NDArray[np.generic]]) -> dict[str, object]:
    """All side arrays of a sequence."""
    return {name: side(values) for name, values in held.items()}
