"""Fields of a record that this version does not know: found on reading, added when written back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from atropos_agent.trajectory import Json

Unknown: TypeAlias = Mapping[str | int, object]
"""Unknown values by key or list index, nested like the record. A missing key: nothing is unknown there."""


def unknown_in(read: Json, known: Json) -> Unknown:
    """What `read` holds and `known`, the same record as this version writes it, does not."""
    found: dict[str | int, object] = {}
    if isinstance(read, Mapping) and isinstance(known, Mapping):
        for key, value in read.items():
            if key not in known:
                found[key] = value
            elif inner := unknown_in(value, known[key]):
                found[key] = inner
    elif isinstance(read, list) and isinstance(known, list) and len(read) == len(known):
        for index, (value, here) in enumerate(zip(read, known, strict=True)):
            if inner := unknown_in(value, here):
                found[index] = inner
    return found


def with_unknown(written: object, unknown: Unknown) -> object:
    """`written` with what `unknown_in` found; what this version wrote itself is kept."""
    if isinstance(written, Mapping):
        added = {key: value for key, value in unknown.items() if key not in written}
        kept = {
            key: with_unknown(value, cast("Unknown", unknown[key])) if key in unknown else value
            for key, value in written.items()
        }
        return {**kept, **added}
    if isinstance(written, list):
        return [
            with_unknown(value, cast("Unknown", unknown[index])) if index in unknown else value
            for index, value in enumerate(written)
        ]
    return written
