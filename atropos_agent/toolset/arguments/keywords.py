"""The JSON Schema validator (2020-12), with keywords that we check differently from jsonschema.

The error message of such a keyword is only the name or the pattern that the error is about; `wording` makes
the text for the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TypeAlias, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from atropos_agent.toolset.arguments.formats import format_checker
from atropos_agent.toolset.arguments.patterns import matches
from atropos_agent.trajectory import Json

Schema: TypeAlias = Mapping[str, Json]
Found: TypeAlias = Iterator[ValidationError]


def _is_integer(_: object, value: object) -> bool:
    """2020-12 accepts 1.0 as an integer, but a tool would get a float."""
    return isinstance(value, int) and not isinstance(value, bool)


def _required(_: Draft202012Validator, required: list[str], value: Json, _schema: Schema) -> Found:
    if isinstance(value, dict):
        yield from (ValidationError(name) for name in required if name not in value)


def _dependent_required(
    _: Draft202012Validator, needs: Mapping[str, list[str]], value: Json, _schema: Schema
) -> Found:
    """`instance` of the error is the argument that needs the missing one."""
    if isinstance(value, dict):
        for name, needed in needs.items():
            if name in value:
                yield from (ValidationError(each, instance=name) for each in needed if each not in value)


def _pattern(_: Draft202012Validator, pattern: str, value: Json, _schema: Schema) -> Found:
    if isinstance(value, str) and not matches(pattern, value):
        yield ValidationError(pattern)


def _pattern_properties(
    validator: Draft202012Validator, patterns: Mapping[str, Schema | bool], value: Json, _schema: Schema
) -> Found:
    if not isinstance(value, dict):
        return
    for pattern, child in patterns.items():
        for name, each in value.items():
            if matches(pattern, name):
                yield from validator.descend(each, child, path=name, schema_path=pattern)


def _additional_properties(
    validator: Draft202012Validator, additional: Schema | bool, value: Json, schema: Schema
) -> Found:
    """In the order of `value`, one error for each name."""
    if additional is True or not isinstance(value, dict):
        return
    properties = cast("Schema", schema.get("properties", {}))
    patterns = cast("Schema", schema.get("patternProperties", {}))
    for name, each in value.items():
        if name in properties or any(matches(pattern, name) for pattern in patterns):
            continue
        if additional is False:
            yield ValidationError(name)
        else:
            yield from validator.descend(each, additional, path=name)


def _property_names(
    validator: Draft202012Validator, names: Schema | bool, value: Json, _schema: Schema
) -> Found:
    if isinstance(value, dict):
        fitting = validator.evolve(schema=names)
        yield from (ValidationError(name) for name in value if not fitting.is_valid(name))


def _multiple_of(_: Draft202012Validator, divisor: float, value: Json, _schema: Schema) -> Found:
    """Computed with the decimals as written: as floats, 19.99 is not a multiple of 0.01."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            whole = (_exact(value) / _exact(divisor)).denominator == 1
        except ValueError:  # NaN and infinity, which Python reads from JSON
            whole = False
        if not whole:
            yield ValidationError(str(divisor))


def _exact(number: float) -> Fraction:
    return Fraction(number if isinstance(number, int) else repr(number))


def _unique_items(_: Draft202012Validator, unique: bool, value: Json, _schema: Schema) -> Found:
    """In linear time: jsonschema compares each object with each other one."""
    if unique and isinstance(value, list) and len({_identity(item) for item in value}) < len(value):
        yield ValidationError("uniqueItems")


def _identity(value: Json) -> object:
    """Hashable, and equal for values that are equal in JSON: 1 and 1.0, but not 1 and true."""
    if isinstance(value, dict):
        return frozenset((name, _identity(each)) for name, each in value.items())
    if isinstance(value, list):
        return tuple(_identity(each) for each in value)
    return (isinstance(value, bool), value)


def _validator_class() -> type[Draft202012Validator]:
    own = {
        "additionalProperties": _additional_properties,
        "dependentRequired": _dependent_required,
        "multipleOf": _multiple_of,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "propertyNames": _property_names,
        "required": _required,
        "uniqueItems": _unique_items,
    }
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    return cast("type[Draft202012Validator]", extend(Draft202012Validator, own, type_checker=types))  # type: ignore[no-untyped-call]


ArgumentValidator: type[Draft202012Validator] = _validator_class()
FORMAT_CHECKER = format_checker()
