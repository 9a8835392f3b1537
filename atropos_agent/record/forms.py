"""How dataclasses of the vocabulary are written as JSON and read back, derived from their annotations.

A field that is added to a dataclass is written and read without a change here. Fields that hold their
default are left out. Reading goes through pydantic models; what a model does not know is ignored by it and
kept by `unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, NotRequired, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    JsonValue,
    WrapValidator,
    create_model,
)
from pydantic import Field as ModelField

from atropos_agent.errors import RecordError
from atropos_agent.record.jsonl import free_json
from atropos_agent.trajectory import (
    AssistantMessage,
    CalledFunction,
    MessageCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)

Write: TypeAlias = Callable[[Any], object]

CONFIG = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)


class Writer:
    """Writes the fields of one dataclass; `skip` are those that its caller writes."""

    def __init__(self, kind: type, skip: Iterable[str] = ()) -> None:
        hints = get_type_hints(kind, localns={"Json": JsonValue, "Message": _MESSAGE})
        self._plan = tuple(
            (field.name, _default(field), _write_of(hints[field.name], field.name))
            for field in fields(kind)
            if field.name not in set(skip)
        )

    def __call__(self, value: object) -> dict[str, object]:
        """The fields of `value` that do not hold their default. Raises RecordError for a number that is not
        finite."""
        written: dict[str, object] = {}
        for name, default, write in self._plan:
            held = getattr(value, name)
            # The types are compared too: True equals 1 and 1.0 in Python, but is written differently.
            if held is default or (type(held) is type(default) and held == default):
                continue
            written[name] = held if write is None else write(held)
        return written


_MESSAGE = object()
"""Stands for a message where hints are read: messages are JSON already."""


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _write_of(hint: Any, name: str) -> Write | None:
    """How a value of this type is written; None if it is JSON already."""
    if hint is float:
        return lambda value: finite(name, value)
    if hint is JsonValue:
        return free_json
    if hint is _MESSAGE:
        return _message
    if isinstance(hint, type) and is_dataclass(hint):
        return _writer_of(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType or origin is Union:
        (only, *more) = [kind for kind in inner if kind is not type(None)]
        return None if more else _optional(_write_of(only, name))
    if origin is tuple or origin is Sequence:
        return _each(_write_of(inner[0], name))
    if origin is Mapping:
        return free_json if inner[1] is JsonValue else _finite_values(name)
    return None


@cache
def _writer_of(kind: type) -> Writer:
    return Writer(kind)


def finite(name: str, value: float) -> float:
    """`value`. Raises RecordError where it is not finite."""
    if not math.isfinite(value):
        raise RecordError(f"`{name}` is {value}; a record holds finite numbers only")
    return float(value)


def _message(message: Mapping[str, Any]) -> object:
    return message if len(message) == 2 and type(message["content"]) is str else free_json(message)


def _optional(write: Write | None) -> Write | None:
    return None if write is None else lambda value: None if value is None else write(value)


def _each(write: Write | None) -> Write | None:
    return None if write is None else lambda values: [write(value) for value in values]


def _finite_values(name: str) -> Write:
    return lambda held: {key: finite(f"{name}.{key}", value) for key, value in held.items()}


def model_of(
    kind: type, replaced: Mapping[str, object] | None = None, **changed: tuple[object, object]
) -> type[BaseModel]:
    """A pydantic model with the fields, types and defaults of a dataclass or TypedDict.

    `replaced` names the types of its annotations that are read in another form; `changed` gives type and
    default of single fields that are.
    """
    named = {"Json": JsonValue, **(replaced or {})}
    hints = get_type_hints(kind, localns=named, include_extras=True)
    if is_dataclass(kind):
        known = {field.name: _model_field(field) for field in fields(kind)}
    else:
        known = {name: None if get_origin(hint) is NotRequired else ... for name, hint in hints.items()}
    definitions: dict[str, Any] = {name: (_bare(hints[name]), default) for name, default in known.items()}
    return create_model(kind.__name__, __config__=CONFIG, **{**definitions, **changed})


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is NotRequired else hint


def _model_field(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return ModelField(default_factory=field.default_factory)
    return ... if field.default is MISSING else field.default


def read_as(kind: type, replaced: Mapping[str, object] | None = None) -> object:
    """The annotation under which pydantic reads a `kind`."""
    return Annotated[model_of(kind, replaced), AfterValidator(lambda model: kind(**vars(model)))]


def _checked(value: object, check: Callable[[object], object]) -> object:
    """`value` as it is, its unknown keys included, after it was checked."""
    check(value)
    return value


_call = model_of(MessageCall, {"CalledFunction": model_of(CalledFunction)})
_roles: Any = Union[  # noqa: UP007  built from values
    model_of(SystemMessage), model_of(UserMessage), model_of(AssistantMessage, {"MessageCall": _call}),
    model_of(ToolMessage),
]  # fmt: skip
READ: Mapping[str, object] = {
    "Message": Annotated[_roles, Discriminator("role"), WrapValidator(_checked)],
    "ToolCall": read_as(ToolCall),
    "ToolResult": read_as(ToolResult),
}
"""What stands in annotations for types that hold free JSON, which pydantic cannot read by itself."""
