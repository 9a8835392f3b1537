from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pytest
from pydantic import ValidationError

from atropos_agent.errors import RecordError
from atropos_agent.record.forms import READ, Writer, model_of
from atropos_agent.trajectory import Failure, Json, Message, ToolCall


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Added:
    """Fields of every type that the vocabulary uses; none of them is named anywhere else."""

    name: str
    colour: Colour = Colour.RED
    number: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    free: Mapping[str, Json] = field(default_factory=dict[str, Json])
    calls: tuple[ToolCall | None, ...] = ()
    failure: Failure | None = None
    talk: tuple[Message, ...] = ()


FULL = Added(
    "a",
    number=0.5,
    parts={"b": 1.0},
    free={"c": [1, {"d": None}]},
    calls=(ToolCall("t", {"e": 1}), None),
    talk=({"role": "tool", "content": "x", "tool_call_id": "1"},),
)


@pytest.mark.parametrize("value", [Added("a"), FULL])
def test_a_dataclass_is_written_and_read_by_its_annotations(value):
    read = model_of(Added, READ).model_validate(Writer(Added)(value))
    assert Added(**vars(read)) == value


def test_a_field_that_holds_its_default_is_left_out():
    assert Writer(Added)(Added("a")) == {"name": "a"}
    assert Writer(Added, skip=["name"])(FULL).keys() == {"number", "parts", "free", "calls", "talk"}


def test_numbers_that_are_not_finite_are_refused_both_ways():
    with pytest.raises(RecordError, match=r"parts\.b"):
        Writer(Added)(Added("a", parts={"b": float("inf")}))
    with pytest.raises(ValidationError, match="number"):
        model_of(Added, READ).model_validate({"name": "a", "number": float("nan")})
