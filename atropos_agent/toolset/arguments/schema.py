"""Checks a tool's schema when the tool is registered: it must be valid, self-contained and bounded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import regex
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, Schema, SchemaRegistry

from atropos_agent.errors import ToolError
from atropos_agent.toolset.arguments.keywords import FORMAT_CHECKER, ArgumentValidator
from atropos_agent.toolset.arguments.patterns import compiled
from atropos_agent.trajectory import Json, ToolSchema

if TYPE_CHECKING:
    from referencing._core import Resolver  # what the public `Registry.resolver` returns has no public name

_IN_VALUE = frozenset(
    [
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
_IN_LIST = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
_IN_NAMED = frozenset(["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"])
_FIRST = ("type", "enum", "const", "minimum", "maximum", "prefixItems", "items", "required", "properties")
_RANKS = {keyword: rank for rank, keyword in enumerate(_FIRST)} | {"additionalProperties": 1000}
"""Keywords that are not listed come between the two."""
_SHOWN = 200


def load(schema: ToolSchema) -> Draft202012Validator:
    """The validator of a tool's arguments.

    `$schema` is ignored: every schema is read as 2020-12. A `$ref` leads into the same schema; nothing
    is ever fetched. Raises ToolError for a schema that is invalid, does not describe an object, refers to
    anything outside, or cannot be checked in bounded time.
    """
    try:
        validator = _validator(schema)
        validator.is_valid({})
    except RecursionError:
        raise _refused(schema, (), "is nested too deeply, or refers to itself without end") from None
    return validator


def _validator(schema: ToolSchema) -> Draft202012Validator:
    parameters = _plain(schema)
    if schema.closed:
        parameters["additionalProperties"] = False
    try:
        Draft202012Validator.check_schema(parameters, format_checker=FormatChecker(()))
    except SchemaError as error:
        raise _refused(schema, error.absolute_path, f"is invalid: {error.message:.{_SHOWN}}") from None
    types = parameters.get("type", "object")
    if "object" not in (types if isinstance(types, list) else [types]):
        raise _refused(schema, ("type",), f"is {types!r}; the arguments of a call are an object")
    parameters = cast("dict[str, Json]", _ordered(parameters))
    _check_places(schema, parameters)
    return ArgumentValidator(parameters, format_checker=FORMAT_CHECKER, registry=_nothing_else())


def _nothing_else() -> SchemaRegistry:
    """A registry without retrieval: the schema itself is all there is."""
    return Registry()


def _plain(schema: ToolSchema) -> dict[str, Json]:
    """A copy in dicts and lists, which jsonschema requires."""
    try:
        copied = json.loads(json.dumps(schema.parameters, default=dict))
    except (TypeError, ValueError) as error:
        raise _refused(schema, (), f"is not JSON: {error}") from None
    if not isinstance(copied, dict):
        raise _refused(schema, (), f"is {copied!r:.{_SHOWN}}; a JSON Schema of type object is possible")
    return copied


def _ordered(schema: Json) -> Json:
    """A copy with the keywords in the order in which a policy reads what is wrong, without `$schema`.

    A `$schema` inside would make jsonschema continue with the validator of that draft instead of ours.
    """
    if not isinstance(schema, dict):
        return schema
    keywords = sorted(schema, key=lambda keyword: _RANKS.get(keyword, len(_FIRST)))
    return {keyword: _below(keyword, schema[keyword]) for keyword in keywords if keyword != "$schema"}


def _below(keyword: str, value: Json) -> Json:
    if keyword in _IN_VALUE:
        return _ordered(value)
    if keyword in _IN_LIST and isinstance(value, list):
        return [_child(child) for child in value]
    if keyword in _IN_NAMED and isinstance(value, dict):
        return {name: _child(child) for name, child in value.items()}
    return value


def _child(schema: Json) -> Json:
    """`false` as a schema that reports an error's place: for `false` itself, jsonschema gives none."""
    return {"not": {}} if schema is False else _ordered(schema)


@dataclass(frozen=True, slots=True)
class _Place:
    """A schema inside the schema, where it is, and how its references are resolved."""

    path: tuple[str, ...]
    schema: Schema
    resolver: Resolver[Schema]

    def below(self, path: tuple[str, ...], schema: Json) -> _Place:
        """A schema right below; its `$id`, if it has one, is the base of its references."""
        child = cast("Schema", schema)
        resolver = self.resolver.in_subresource(DRAFT202012.create_resource(child))
        return _Place((*self.path, *path), child, resolver)

    def children(self) -> Iterator[_Place]:
        """The schemas right below."""
        for keyword, value in self.schema.items() if isinstance(self.schema, Mapping) else ():
            if keyword in _IN_VALUE:
                yield self.below((keyword,), value)
            elif keyword in _IN_LIST and isinstance(value, list):
                yield from (self.below((keyword, str(index)), child) for index, child in enumerate(value))
            elif keyword in _IN_NAMED and isinstance(value, dict):
                yield from (self.below((keyword, name), child) for name, child in value.items())

    def all(self) -> Iterator[_Place]:
        """This one and all below."""
        yield self
        for child in self.children():
            yield from child.all()


def _check_places(tool: ToolSchema, parameters: dict[str, Json]) -> None:
    """Raises ToolError for a reference or a pattern that cannot be used."""
    root = DRAFT202012.create_resource(cast("Schema", parameters))
    places = list(_Place((), parameters, _nothing_else().resolver_with_root(root)).all())
    known = {id(place.schema) for place in places}
    for place in places:
        if isinstance(place.schema, Mapping):
            _check_references(tool, place, known)
            _check_patterns(tool, place)
    used = {keyword for place in places if isinstance(place.schema, Mapping) for keyword in place.schema}
    if {"patternProperties", "unevaluatedProperties"} <= used:
        # jsonschema looks for unevaluated names with `re`, which has no time limit
        text = "has patternProperties and unevaluatedProperties; use one of them"
        raise _refused(tool, (), text)


def _check_references(tool: ToolSchema, place: _Place, known: set[int]) -> None:
    assert isinstance(place.schema, Mapping)
    for keyword in ("$ref", "$dynamicRef"):
        reference = place.schema.get(keyword)
        if not isinstance(reference, str):
            continue
        try:
            target = place.resolver.lookup(reference).contents
        except Unresolvable:
            target = None
        if not isinstance(target, bool) and id(target) not in known:
            text = f"is {reference!r}, which is not a schema inside this one; #/$defs/NAME is possible"
            raise _refused(tool, (*place.path, keyword), text)


def _check_patterns(tool: ToolSchema, place: _Place) -> None:
    assert isinstance(place.schema, Mapping)
    own, named = place.schema.get("pattern"), place.schema.get("patternProperties")
    patterns = [*([own] if isinstance(own, str) else []), *(named if isinstance(named, dict) else ())]
    for pattern in patterns:
        try:
            compiled(pattern)
        except regex.error as error:
            raise _refused(tool, place.path, f"has the pattern {pattern!r}: {error}") from None


def _refused(tool: ToolSchema, path: Iterable[str | int], text: str) -> ToolError:
    place = ".".join(["parameters", *(str(part) for part in path)])
    return ToolError(f"tool {tool.name!r}: {place} {text}")
