"""Tools as a policy sees them: schemas, calls, results, and what is wrong with a call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from atropos_agent.errors import ToolError
from atropos_agent.trajectory.values import Json

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """The name, description and arguments of a tool.

    `parameters` is one JSON Schema (2020-12) of type object, as an MCP server gives it. `closed`: argument
    names that the schema does not list are refused. `external`: the tool runs outside the sandbox and needs
    none. `parallel`: calls may run beside other parallel calls of the same step; the policy does not see it.
    Raises ToolError for a bad name.
    """

    name: str
    description: str
    parameters: Mapping[str, Json]
    closed: bool = False
    external: bool = False
    parallel: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ToolError(f"tool name {self.name!r}: 1 to 64 letters, digits and . : _ - are possible")

    @classmethod
    def of(
        cls,
        name: str,
        description: str,
        properties: Mapping[str, Json] | None = None,
        required: Sequence[str] = (),
        *,
        external: bool = False,
        parallel: bool = False,
    ) -> ToolSchema:
        """A closed schema from the JSON Schema of each argument. Raises ToolError for a bad name or a
        required argument without schema."""
        properties = properties or {}
        if unknown := [argument for argument in required if argument not in properties]:
            raise ToolError(f"tool {name!r} requires {unknown}, which its parameters do not describe")
        parameters: dict[str, Json] = {
            "type": "object",
            "properties": properties,
            "required": list(required),
        }
        return cls(name, description, parameters, closed=True, external=external, parallel=parallel)

    @property
    def properties(self) -> Mapping[str, Json]:
        """The JSON Schema of each argument that the schema lists."""
        # Schemas come from others too, e.g. MCP servers: registering the tool reports a malformed one.
        listed = self.parameters.get("properties")
        return listed if isinstance(listed, Mapping) else {}

    @property
    def required(self) -> tuple[str, ...]:
        """The arguments that a call must give."""
        listed = self.parameters.get("required")
        names = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else ()
        return tuple(str(name) for name in names)

    def to_dict(self) -> dict[str, Json]:
        """The OpenAI function schema."""
        function: dict[str, Json] = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}

    def to_prompt_description(self) -> str:
        """Bold name, description, and one bullet per argument."""
        lines = [f"**{self.name}**: {self.description}"]
        for name, schema in self.properties.items():
            known = schema if isinstance(schema, Mapping) else {}
            need = "required" if name in self.required else "optional"
            text = f": {known['description']}" if "description" in known else ""
            lines.append(f"- `{name}` ({known.get('type', 'any')}) ({need}){text}")
        return "\n".join(lines)


class ParseErrorKind(StrEnum):
    """What is wrong with a tool call in a completion."""

    UNCLOSED = "unclosed"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_NAME = "missing_name"
    BAD_ARGUMENTS = "bad_arguments"
    MALFORMED_TAG = "malformed_tag"
    INSIDE_REASONING = "inside_reasoning"
    UNCLOSED_REASONING = "unclosed_reasoning"
    TRAILING_TEXT = "trailing_text"


@dataclass(frozen=True, slots=True)
class ParseError:
    """One part of a text that the parser could not read as a call; `span` is [start, end) in characters."""

    kind: ParseErrorKind
    detail: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the policy wrote it; `span` covers the tags, [start, end) in characters of the completion.

    `uniq_id` is assigned by the agent and unique within a rollout; an id that the model wrote is not used.
    """

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict[str, Json])
    uniq_id: str = ""
    raw_text: str = ""
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a call. A dialect turns it into the text that the policy reads; `details` is for the
    record only."""

    success: bool
    output: str = ""
    error: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    uniq_id: str | None = None
    details: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def to_dict(self) -> dict[str, Json]:
        """All five wire keys, always."""
        return {
            "success": self.success,
            "output": self.output,
            "error": self.error,
            "metadata": self.metadata,
            "uniq_id": self.uniq_id,
        }
