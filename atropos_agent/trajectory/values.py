"""JSON values and token arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
TokenIds: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]
Logprobs: TypeAlias = NDArray[np.float32]

_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def json_type(value: object) -> str:
    """The JSON name of the type of a decoded value, e.g. "object"; a bool is not an integer."""
    return _JSON_TYPES.get(type(value), "null")
