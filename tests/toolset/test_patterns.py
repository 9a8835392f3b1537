import threading

import pytest

from atropos_agent.toolset.arguments import ArgumentCheck
from atropos_agent.trajectory import Json, ToolSchema

# The first is what Python's `re` hangs on; `regex` answers it at once. On the second `regex` backtracks too.
EVIL = ["(a+)+$", "(a|aa)+$"]
LONG = "a" * 60 + "!"


def problems(schema: dict[str, Json], arguments: dict[str, Json]) -> list[str]:
    return ArgumentCheck(ToolSchema("t", "", schema)).problems(arguments)


@pytest.mark.parametrize("pattern", EVIL)
def test_a_pattern_that_backtracks_is_answered_and_not_waited_for(pattern: str):
    (text,) = problems({"properties": {"x": {"items": {"pattern": pattern}}}}, {"x": ["a", LONG]})
    assert text.startswith("argument 'x[1]' ")
    assert f"the pattern /{pattern}/" in text


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"x": {"pattern": EVIL[1]}}},
        {"properties": {"x": {"not": {"pattern": EVIL[1]}}}},
        {"properties": {"x": {"anyOf": [{"pattern": EVIL[1]}, {}]}}},
        {"properties": {"x": {"if": {"pattern": EVIL[1]}}}},
    ],
)
def test_a_text_that_could_not_be_compared_never_passes(schema: dict[str, Json]):
    assert problems(schema, {"x": LONG}) == [
        "argument 'x' takes too long to compare with the pattern /(a|aa)+$/; simplify it"
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {"patternProperties": {EVIL[1]: {}}},
        {"patternProperties": {EVIL[1]: {}}, "additionalProperties": False},
        {"propertyNames": {"pattern": EVIL[1]}},
    ],
)
def test_names_are_compared_in_bounded_time_too(schema: dict[str, Json]):
    assert problems({"properties": {"x": schema}}, {"x": {LONG: 1}}) == [
        f"argument 'x.{LONG}' takes too long to compare with the pattern /(a|aa)+$/; simplify it"
    ]


def test_all_texts_of_a_call_share_one_time():
    texts: list[Json] = [LONG[k:] for k in range(20)] * 50
    (text,) = problems({"properties": {"x": {"items": {"not": {"pattern": EVIL[1]}}}}}, {"x": texts})
    assert "takes too long" in text


def test_each_call_and_each_thread_has_its_own_time():
    check = ArgumentCheck(ToolSchema("t", "", {"properties": {"x": {"pattern": EVIL[1]}}}))
    said: list[list[str]] = []
    for _ in range(2):
        assert len(check.problems({"x": LONG})) == 1
        assert check.problems({"x": "aa"}) == []
        thread = threading.Thread(target=lambda: said.append(check.problems({"x": "aa"})))
        thread.start()
        thread.join()
    assert said == [[], []]


def test_a_schema_of_another_draft_does_not_bring_its_unbounded_patterns():
    nested: Json = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": EVIL[1]}
    schema: dict[str, Json] = {"$defs": {"n": nested}, "properties": {"x": {"$ref": "#/$defs/n"}}}
    assert "takes too long" in problems(schema, {"x": LONG})[0]
