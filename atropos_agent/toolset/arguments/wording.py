"""What a policy reads of arguments that do not fit. Each text names the argument by its path."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from jsonschema.exceptions import ValidationError

from atropos_agent.toolset.arguments.formats import FORMATS
from atropos_agent.toolset.arguments.patterns import PatternTimeout
from atropos_agent.trajectory import Json, json_type

_DECISIVE = ("type", "enum", "const")
"""A value that breaks one of these is not looked into."""
_LISTED_FORMS = 5
_SHOWN = 200


def texts(errors: Iterable[ValidationError]) -> Iterator[str]:
    """What is wrong, in the order of `errors`."""
    decided: ValidationError | None = None
    for error in errors:
        if decided is not None and _is_at(error, decided):
            continue
        if error.validator in _DECISIVE:
            decided = error
        yield from _texts_of(error)


def timeout_text(arguments: Mapping[str, Json], timeout: PatternTimeout) -> str:
    """The text for a pattern that took too long."""
    parts = _parts_of(timeout.text, arguments)
    return f"{_subject(parts)} takes too long to compare with the pattern /{timeout.pattern}/; simplify it"


def known(name: str, names: Iterable[str], what: str) -> str:
    """What follows an unknown name: a near match and all `what` there are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; {what}: {', '.join(names) or 'none'}"


def _is_at(error: ValidationError, decided: ValidationError) -> bool:
    """Whether `error` is about the value of `decided`, or what is in it, and from the same schema."""
    path, schema_path = list(decided.absolute_path), list(decided.absolute_schema_path)[:-1]
    return (
        list(error.absolute_path)[: len(path)] == path
        and list(error.absolute_schema_path)[: len(schema_path)] == schema_path
    )


def _texts_of(error: ValidationError) -> Iterator[str]:
    path = list(error.absolute_path)
    properties = _mapping(_mapping(cast("Json", error.schema)).get("properties"))
    match error.validator:
        case "required":
            name = error.message
            expected = _expected(_mapping(properties.get(name)))
            yield f"missing argument {_name([*path, name])!r} ({expected})"
        case "additionalProperties":
            name = error.message
            yield f"unknown argument {_name([*path, name])!r}{known(name, properties, 'arguments')}"
        case "dependentRequired":
            needing, missing = _name([*path, str(error.instance)]), _name([*path, error.message])
            yield f"argument {needing!r} needs argument {missing!r} beside it"
        case "propertyNames":
            name = _name([*path, error.message])
            yield f"argument name {name!r} is not possible; names must fit {_shown(error.validator_value)}"
        case "anyOf" | "oneOf":
            yield from _forms(error, path)
        case _:
            yield f"{_subject(path)} must {_must(error)}"


def _forms(error: ValidationError, path: list[str | int]) -> Iterator[str]:
    """Texts for a value that fits no form. Where its type leaves one form, the texts of that form."""
    forms: dict[str | int, list[ValidationError]] = {}
    for each in error.context:
        forms.setdefault(each.relative_schema_path[0], []).append(each)
    near = [each for each in forms.values() if not _is_other_form(each[0])]
    if not forms:
        yield f"{_subject(path)} must fit exactly one of its forms, not several"
    elif not near:
        yield f"{_subject(path)} must be {_expected_forms(each[0] for each in forms.values())}"
    elif len(near) == 1:
        yield from texts(near[0])
    else:
        listed = [f"({k}) {next(texts(each))}" for k, each in enumerate(near[:_LISTED_FORMS], 1)]
        yield f"{_subject(path)} fits none of its {len(forms)} forms: {', '.join(listed)}"


def _is_other_form(error: ValidationError) -> bool:
    """Whether the value as a whole has the wrong type, or is none of the choices, for this form."""
    return error.validator in _DECISIVE and not error.relative_path


def _expected_forms(errors: Iterable[ValidationError]) -> str:
    """As for a list of types where all forms are types."""
    errors = list(errors)
    words: list[str] = []
    for error in errors:
        limit = cast("Json", error.validator_value)
        if error.validator == "type":
            words += _types(limit)
        else:
            words.append(_shown(limit) if error.validator == "const" else f"one of {_json(limit)}")
    expected = " or ".join(dict.fromkeys(words))
    return f"{expected}, not {json_type(errors[0].instance)}" if _only_types(errors) else expected


def _only_types(errors: Iterable[ValidationError]) -> bool:
    return all(error.validator == "type" for error in errors)


def _must(error: ValidationError) -> str:
    """What follows "must"."""
    keyword, limit = str(error.validator), cast("Json", error.validator_value)
    if keyword in _LIMITS:
        return _LIMITS[keyword].format(limit)
    if keyword in _COUNTS:
        return _counted(_COUNTS[keyword], limit, error)
    schema = _mapping(cast("Json", error.schema))
    match keyword:
        case "type":
            return f"be {_expected(schema)}, not {json_type(error.instance)}"
        case "enum":
            return f"be one of {_json(limit)}"
        case "const":
            return f"be {_shown(limit)}"
        case "format":
            return f"have the format {limit}, as {FORMATS[str(limit)].example}"
        case "items":  # false, after prefixItems
            return _counted("at most {} item", len(cast("list[Json]", schema.get("prefixItems", []))), error)
        case "contains" | "minContains":
            return f"have at least {schema.get('minContains', 1)} of the items {_shown(schema['contains'])}"
        case "maxContains":
            return f"have at most {limit} of the items {_shown(schema['contains'])}"
        case "not":
            return f"not fit {_shown(limit)}" if limit else "not be given"
        case _:
            return f"fit {keyword}: {_shown(limit)}"


_LIMITS: Mapping[str, str] = {
    "minimum": "be at least {}",
    "maximum": "be at most {}",
    "exclusiveMinimum": "be more than {}",
    "exclusiveMaximum": "be less than {}",
    "multipleOf": "be a multiple of {}",
    "pattern": "match the pattern /{}/",
    "uniqueItems": "not have the same item twice",
}
_COUNTS: Mapping[str, str] = {
    "minLength": "at least {} character",
    "maxLength": "at most {} character",
    "minItems": "at least {} item",
    "maxItems": "at most {} item",
    "minProperties": "at least {} member",
    "maxProperties": "at most {} member",
}


def _counted(text: str, limit: Json, error: ValidationError) -> str:
    found = len(cast("Sequence[Json]", error.instance))
    return f"have {text.format(limit)}{'' if limit == 1 else 's'}, not {found}"


def _subject(parts: Sequence[str | int]) -> str:
    return f"argument {_name(parts)!r}" if parts else "the arguments"


def _name(parts: Sequence[str | int]) -> str:
    """A path as a policy reads it, e.g. "pages[0].title"."""
    texts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts]
    return "".join(texts).removeprefix(".")


def _parts_of(text: str, arguments: Mapping[str, Json]) -> list[str | int]:
    """Where this very text is, as a value or as a name."""
    found: list[tuple[list[str | int], Json]] = [([], arguments)]
    for parts, value in found:
        if value is text:
            return parts
        if isinstance(value, Mapping):
            found += [([*parts, name], text if name is text else each) for name, each in value.items()]
        elif isinstance(value, list):
            found += [([*parts, index], each) for index, each in enumerate(value)]
    return []


def _expected(schema: Mapping[str, Json]) -> str:
    return " or ".join(_types(schema.get("type", "any value")))


def _types(types: Json) -> list[str]:
    return [types] if isinstance(types, str) else [str(kind) for kind in cast("list[Json]", types)]


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(value: object) -> str:
    text = _json(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
