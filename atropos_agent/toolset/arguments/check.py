"""The check of a call's arguments, made when its tool is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self, cast

from atropos_agent.toolset.arguments.patterns import PatternTimeout, limited_time
from atropos_agent.toolset.arguments.schema import load
from atropos_agent.toolset.arguments.wording import texts, timeout_text
from atropos_agent.trajectory import Json, ToolSchema, json_type

_LISTED_PROBLEMS = 5
_ANY = ["object", "array", "string", "boolean", "integer", "number", "null"]
_PLAIN_OBJECT = frozenset({"type", "properties", "required", "title", "description"})
_PLAIN_ARGUMENT = frozenset({"type", "title", "description", "default", "examples"})


class ArgumentCheck:
    """JSON Schema 2020-12 over the arguments of one tool.

    1.0 is not an integer: a point makes a number a float. `format` is checked for date, date-time, duration,
    email, hostname, ipv4, ipv6, json-pointer, time, uri, uri-reference and uuid. All patterns of one check
    share a quarter of a second; arguments that take longer are refused. Raises ToolError for a
    schema that is invalid or refers to anything outside itself.
    """

    def __init__(self, schema: ToolSchema) -> None:
        self._validator = load(schema)
        self._plain = _PlainTypes.of(schema)

    def problems(self, arguments: Mapping[str, Json]) -> list[str]:
        """What does not fit, at most 5 texts that name the argument; none where all fits."""
        given = arguments if isinstance(arguments, dict) else dict(arguments)
        if self._plain is not None and self._plain.fit(given):
            return []
        try:
            with limited_time():
                if self._validator.is_valid(given):
                    return []
                return list(islice(texts(self._validator.iter_errors(given)), _LISTED_PROBLEMS))
        except PatternTimeout as timeout:
            return [timeout_text(given, timeout)]
        except RecursionError:
            return ["the arguments are nested too deeply to be checked"]


@dataclass(frozen=True, slots=True)
class _PlainTypes:
    """The types of arguments of which nothing but the type is checked.

    Most tools are like this and most calls fit; the validator would cost ten times as much on each of them.
    What does not fit here goes to the validator, which decides and finds the words.
    """

    accepted: Mapping[str, frozenset[str]]
    required: frozenset[str]
    closed: bool

    @classmethod
    def of(cls, schema: ToolSchema) -> Self | None:
        """Those of `schema`; None where it checks more."""
        if not schema.parameters.keys() <= _PLAIN_OBJECT:
            return None
        accepted: dict[str, frozenset[str]] = {}
        for name, argument in schema.properties.items():
            if not isinstance(argument, Mapping) or not argument.keys() <= _PLAIN_ARGUMENT:
                return None
            named = argument.get("type", _ANY)
            types = {named} if isinstance(named, str) else {str(each) for each in cast("list[Json]", named)}
            accepted[name] = frozenset(types | {"integer"} if "number" in types else types)
        return cls(accepted, frozenset(schema.required), schema.closed)

    def fit(self, arguments: Mapping[str, Json]) -> bool:
        """True where `arguments` certainly fit."""
        if not self.required <= arguments.keys():
            return False
        for name, value in arguments.items():
            accepted = self.accepted.get(name)
            if accepted is None:
                if self.closed:
                    return False
            elif json_type(value) not in accepted:
                return False
        return True
