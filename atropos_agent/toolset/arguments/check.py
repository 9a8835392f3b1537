"""The check of a call's arguments, made when its tool is registered."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from atropos_agent.toolset.arguments.patterns import PatternTimeout, limited_time
from atropos_agent.toolset.arguments.schema import load
from atropos_agent.toolset.arguments.wording import texts, timeout_text
from atropos_agent.trajectory import Json, ToolSchema

_LISTED_PROBLEMS = 5


class ArgumentCheck:
    """JSON Schema 2020-12 over the arguments of one tool.

    1.0 is not an integer: a point makes a number a float. `format` is checked for date, date-time, duration,
    email, hostname, ipv4, ipv6, json-pointer, time, uri, uri-reference and uuid. All patterns of one check
    share a quarter of a second; arguments that take longer are refused. Raises ToolError for a
    schema that is invalid or refers to anything outside itself.
    """

    def __init__(self, schema: ToolSchema) -> None:
        self._validator = load(schema)

    def problems(self, arguments: Mapping[str, Json]) -> list[str]:
        """What does not fit, at most 5 texts that name the argument; none where all fits."""
        given = arguments if isinstance(arguments, dict) else dict(arguments)
        try:
            with limited_time():
                if self._validator.is_valid(given):
                    return []
                return list(islice(texts(self._validator.iter_errors(given)), _LISTED_PROBLEMS))
        except PatternTimeout as timeout:
            return [timeout_text(given, timeout)]
        except RecursionError:
            return ["the arguments are nested too deeply to be checked"]
