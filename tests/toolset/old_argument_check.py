"""The argument check as it was before jsonschema: the oracle for every text that it had."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from atropos_agent.trajectory import Json, ToolSchema, json_type


def argument_problems(schema: ToolSchema, arguments: Mapping[str, Json]) -> Iterator[str]:
    """What in `arguments` does not fit; each text names the argument. Unknown names do not fit."""
    yield from _object_problems(schema.parameters, arguments, "")
    for name in arguments:
        if name not in schema.properties:
            yield f"unknown argument {name!r}{_known(name, schema.properties, 'arguments')}"


def _known(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; {what}: {', '.join(names) or 'none'}"


def _object_problems(schema: Mapping[str, Json], value: Mapping[str, Json], path: str) -> Iterator[str]:
    properties = cast("Mapping[str, Json]", schema.get("properties") or {})
    for name in cast("list[str]", schema.get("required") or []):
        if name not in value:
            yield f"missing argument {path + name!r} ({_expected(_as_schema(properties.get(name)))})"
    for name, child in properties.items():
        if name in value:
            yield from _value_problems(_as_schema(child), value[name], path + name)


def _value_problems(schema: Mapping[str, Json], value: Json, path: str) -> Iterator[str]:
    """What in `value` breaks `schema`; a value of the wrong type is not looked into."""
    types, choices = schema.get("type"), schema.get("enum")
    accepted = [types] if isinstance(types, str) else types
    if isinstance(accepted, list) and not any(_is_type(value, kind) for kind in accepted):
        yield f"argument {path!r} must be {_expected(schema)}, not {json_type(value)}"
    elif isinstance(choices, list) and value not in choices:
        yield f"argument {path!r} must be one of {json.dumps(choices, ensure_ascii=False)}"
    elif isinstance(value, int | float):
        yield from _range_problems(schema, value, path)
    elif isinstance(value, list):
        items = _as_schema(schema.get("items"))
        for index, item in enumerate(value):
            yield from _value_problems(items, item, f"{path}[{index}]")
    elif isinstance(value, dict):
        yield from _object_problems(schema, value, f"{path}.")


def _range_problems(schema: Mapping[str, Json], value: float, path: str) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float) and value < low:
        yield f"argument {path!r} must be at least {low}"
    if isinstance(high, int | float) and value > high:
        yield f"argument {path!r} must be at most {high}"


def _is_type(value: Json, kind: Json) -> bool:
    found = json_type(value)
    return kind == found or (kind == "number" and found == "integer")


def _expected(schema: Mapping[str, Json]) -> str:
    types = schema.get("type", "any value")
    return types if isinstance(types, str) else " or ".join(str(kind) for kind in cast("list[Json]", types))


def _as_schema(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}
