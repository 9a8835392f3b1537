"""Tools and how a call is run. Whatever goes wrong inside a call is an observation, never an exception,
except a lost sandbox and a cancel. Knows no policy and no concrete tool.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol, TypeAlias, cast

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox.protocol import Job, Sandbox, Session, SessionKind
from atropos_agent.trajectory import Json, ToolCall, ToolResult, ToolSchema, json_type

MAX_OBSERVATION_CHARS = 16_000

CALL_DEADLINE: ContextVar[float | None] = ContextVar("call_deadline", default=None)
"""When the present call must be over, in the event loop's time; the agent sets it before each call."""

ExecuteTool: TypeAlias = Callable[[ToolCall], Awaitable[ToolResult]]

_LISTED_PROBLEMS = 5
_ERROR_SHARE = 4


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a call may use. `deadline` is in the event loop's time, in seconds: a tool returns by then,
    or is cut off soon after. `sessions`, and `jobs` by the name of their tool, are what tools keep from call
    to call of one rollout."""

    sandbox: Sandbox | None = None
    rollout_id: str = ""
    deadline: float | None = None
    sessions: dict[SessionKind, Session] = field(default_factory=dict[SessionKind, Session], compare=False)
    jobs: dict[str, Job] = field(default_factory=dict[str, Job], compare=False)


class Tool(Protocol):
    """What a policy can call. One instance serves all rollouts at once: state belongs in the sandbox, and in
    the context what leads to it."""

    @property
    def schema(self) -> ToolSchema:
        """Name and arguments."""
        ...

    async def execute(self, arguments: Mapping[str, Json], context: ToolContext) -> ToolResult:
        """Run one call; `arguments` fit the schema. What it raises becomes an observation."""
        ...

    def is_available(self) -> tuple[bool, str]:
        """Whether it can run on this machine, and if not, why."""
        ...


class ToolRegistry:
    """The tools of an agent, in the order in which they were registered.

    `max_observation_chars` bounds what one call may tell the policy, head and tail kept.
    """

    def __init__(
        self, tools: Iterable[Tool] = (), *, max_observation_chars: int = MAX_OBSERVATION_CHARS
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self.max_observation_chars = max_observation_chars
        for tool in tools:
            self.register(tool)

    def __len__(self) -> int:
        return len(self._tools)

    def register(self, tool: Tool) -> None:
        """Add `tool`; one of the same name is replaced."""
        self._tools[tool.schema.name] = tool

    def get(self, name: str) -> Tool | None:
        """The tool of this name."""
        return self._tools.get(name)

    def list_tools(self) -> list[str]:
        """All names."""
        return list(self._tools)

    def get_schemas(self) -> list[ToolSchema]:
        """All schemas."""
        return [tool.schema for tool in self._tools.values()]

    def get_prompt_description(self) -> str:
        """All tools in words, separated by blank lines."""
        return "\n\n".join(schema.to_prompt_description() for schema in self.get_schemas())

    def get_prompt_tool_definitions_json(self) -> str:
        """The JSON array a Hermes prompt shows between its tools tags.

        `"required": null` beside the parameters is what Hermes models saw in training.
        """
        definitions: list[Json] = [
            {
                "name": schema.name,
                "description": schema.description,
                "parameters": schema.parameters,
                "required": None,
            }
            for schema in self.get_schemas()
        ]
        return json.dumps(definitions, ensure_ascii=False)

    async def execute(self, call: ToolCall, context: ToolContext | None = None) -> ToolResult:
        """Run one call to its bounded observation. Raises SandboxLost and CancelledError only."""
        try:
            return self._bounded(await self._run(call, context or ToolContext()), call)
        except SandboxLost:
            raise
        except Exception as error:  # the boundary: whatever a tool raises, the policy gets to read
            return self._bounded(failure(f"Tool execution error: {type(error).__name__}: {error}"), call)

    async def _run(self, call: ToolCall, context: ToolContext) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            return failure(f"Unknown tool: {call.name}{_known(call.name, self._tools, 'tools')}")
        if problems := list(islice(argument_problems(tool.schema, call.arguments), _LISTED_PROBLEMS)):
            return failure(f"Invalid arguments for {call.name}: {'; '.join(problems)}")
        available, reason = tool.is_available()
        if not available:
            return failure(f"Tool {call.name} is not available: {reason}")
        return await tool.execute(call.arguments, context)

    def _bounded(self, result: ToolResult, call: ToolCall) -> ToolResult:
        """`result` of `call` as valid Unicode within the budget; an error needs little of it."""
        budget = self.max_observation_chars
        error = bound_text(_encodable(result.error), budget // _ERROR_SHARE)
        metadata = result.metadata
        if metadata and len(json.dumps(metadata)) > budget // _ERROR_SHARE:
            metadata = {"omitted": "too long"}
        return ToolResult(
            success=result.success,
            output=bound_text(_encodable(result.output), budget - len(error)),
            error=error,
            metadata=metadata,
            uniq_id=result.uniq_id or call.uniq_id,
            details=_recordable(result.details),
        )


def bind(registry: ToolRegistry, context: ToolContext) -> ExecuteTool:
    """The `execute_tool` of one rollout: calls run by `registry` in `context`."""

    async def execute_tool(call: ToolCall) -> ToolResult:
        deadline = CALL_DEADLINE.get()
        limited = context if deadline is None else replace(context, deadline=deadline)
        return await registry.execute(call, limited)

    return execute_tool


def failure(error: str) -> ToolResult:
    """A result that tells the policy what went wrong."""
    return ToolResult(success=False, error=error)


def bound_text(text: str, max_chars: int) -> str:
    """`text` in at most `max_chars` characters: head and tail, and a line on how much was cut between."""
    if len(text) <= max_chars:
        return text
    room = max(max_chars - len(_cut_line(len(text))), 0)
    head, tail = room - room // 2, room // 2
    return f"{text[:head]}{_cut_line(len(text) - room)}{text[len(text) - tail :]}"[:max_chars]


def _cut_line(count: int) -> str:
    return f"\n[... {count} characters cut ...]\n"


def _recordable(details: Mapping[str, Json]) -> Mapping[str, Json]:
    """`details` if it is JSON, as its type says; a note otherwise, because the record must be writable."""
    if not details:
        return details
    try:
        json.dumps(details)
    except (TypeError, ValueError) as error:
        return {"omitted": f"no JSON: {error}"}
    return details


def _encodable(text: str) -> str:
    """`text` with lone surrogates replaced: a tokenizer and a server need UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


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
