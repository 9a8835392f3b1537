import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import ToolError
from atropos_agent.toolset import ToolContext, ToolRegistry
from atropos_agent.toolset.arguments import ArgumentCheck
from atropos_agent.trajectory import Json, ToolCall, ToolResult, ToolSchema

PERSON: dict[str, Json] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
TYPES = ["object", "array", "string", "boolean", "integer", "number", "null"]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
OPTIONAL: Json = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
SHAPE: Json = {
    "oneOf": [
        {"type": "object", "required": ["radius"]},
        {"type": "object", "required": ["width"], "properties": {"width": {"type": "number"}}},
    ]
}


def problems(schema: Json, value: Json, **more: Json) -> list[str]:
    """What is said of one argument, `x`."""
    parameters: dict[str, Json] = {"type": "object", "properties": {"x": schema}, **more}
    return ArgumentCheck(ToolSchema("t", "", parameters)).problems({"x": value})


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        (OPTIONAL, "a", "argument 'x' must be integer or null, not string"),
        (OPTIONAL, 0, "argument 'x' must be at least 1"),
        ({"anyOf": [{"const": "a"}, {"enum": [1, 2]}]}, 3, "argument 'x' must be \"a\" or one of [1, 2]"),
        (
            SHAPE,
            {"width": "1"},
            "argument 'x' fits none of its 2 forms: (1) missing argument 'x.radius' (any value), "
            "(2) argument 'x.width' must be number, not string",
        ),
        (SHAPE, {"width": 1, "radius": 1}, "argument 'x' must fit exactly one of its forms, not several"),
        ({"allOf": [{"minimum": 2}, {"maximum": 9}]}, 1, "argument 'x' must be at least 2"),
        ({"not": {"const": "rm"}}, "rm", 'argument \'x\' must not fit {"const": "rm"}'),
        ({"const": {"a": 1}}, 1, "argument 'x' must be {\"a\": 1}"),
        ({"enum": [1]}, True, "argument 'x' must be one of [1]"),
        ({"exclusiveMinimum": 0}, 0, "argument 'x' must be more than 0"),
        ({"exclusiveMaximum": 1.5}, 1.5, "argument 'x' must be less than 1.5"),
        ({"multipleOf": 0.01}, 19.995, "argument 'x' must be a multiple of 0.01"),
        ({"multipleOf": 0.5}, float("nan"), "argument 'x' must be a multiple of 0.5"),
        ({"minLength": 1}, "", "argument 'x' must have at least 1 character, not 0"),
        ({"maxLength": 2}, "abc", "argument 'x' must have at most 2 characters, not 3"),
        ({"pattern": r"^\d+$"}, "1\n", r"argument 'x' must match the pattern /^\d+$/"),
        (
            {"format": "date-time"},
            "today",
            "argument 'x' must have the format date-time, as 2026-01-31T12:00:00Z",
        ),
        ({"minItems": 1}, [], "argument 'x' must have at least 1 item, not 0"),
        ({"maxItems": 1}, [1, 2], "argument 'x' must have at most 1 item, not 2"),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], "argument 'x' must not have the same item twice"),
        ({"prefixItems": [{"type": "string"}]}, [1], "argument 'x[0]' must be string, not integer"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "argument 'x' must have at most 1 item, not 2"),
        ({"contains": {"const": 1}}, [2], "argument 'x' must have at least 1 of the items {\"const\": 1}"),
        (
            {"contains": {"const": 1}, "minContains": 2},
            [1],
            "argument 'x' must have at least 2 of the items {\"const\": 1}",
        ),
        (
            {"contains": {"const": 1}, "maxContains": 1},
            [1, 1],
            "argument 'x' must have at most 1 of the items {\"const\": 1}",
        ),
        ({"minProperties": 1}, {}, "argument 'x' must have at least 1 member, not 0"),
        ({"maxProperties": 1}, {"a": 1, "b": 2}, "argument 'x' must have at most 1 member, not 2"),
        (
            {"properties": {"left": {}}, "additionalProperties": False},
            {"lefd": 1},
            "unknown argument 'x.lefd' (did you mean 'left'?); arguments: left",
        ),
        (
            {"additionalProperties": {"type": "string"}},
            {"a": 1},
            "argument 'x.a' must be string, not integer",
        ),
        (
            {"patternProperties": {"^n": {"type": "number"}}},
            {"n1": ""},
            "argument 'x.n1' must be number, not string",
        ),
        (
            {"propertyNames": {"maxLength": 2}},
            {"long": 1},
            "argument name 'x.long' is not possible; names must fit {\"maxLength\": 2}",
        ),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "argument 'x.a' needs argument 'x.b' beside it"),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, "missing argument 'x.b' (any value)"),
        ({"if": {"minimum": 5}, "then": {"maximum": 9}}, 10, "argument 'x' must be at most 9"),
        ({"unevaluatedProperties": False}, {"a": 1}, "argument 'x' must fit unevaluatedProperties: false"),
        (False, 1, "argument 'x' must not be given"),
    ],
)
def test_what_was_not_checked_before_is_refused_in_our_words(schema: Json, value: Json, text: str):
    assert problems(schema, value) == [text]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (OPTIONAL, None),
        (OPTIONAL, 1),
        (SHAPE, {"width": 1}),
        ({"multipleOf": 0.01}, 19.99),
        ({"multipleOf": 3}, 10**400 * 3),
        ({"multipleOf": 0.5}, 10**400),
        ({"uniqueItems": True}, [1, True, "1", [1], [True], {}]),
        ({"pattern": r"^\p{L}+$"}, "é"),
        ({"pattern": r"^a[$]\$$"}, "a$$"),
        ({"minimum": 3}, True),
        ({"format": "of another world"}, "anything"),
        ({"format": "date"}, 7),
        ({"properties": {"$schema": {"type": "string"}}}, {"$schema": "x"}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}, "x"),
    ],
)
def test_what_fits_passes(schema: Json, value: Json):
    assert problems(schema, value) == []


def test_a_local_reference_is_followed_and_its_texts_name_the_argument():
    shared: dict[str, Json] = {"$defs": {"person": PERSON, "people": {"items": {"$ref": "#/$defs/person"}}}}
    people: Json = {"$ref": "#/$defs/people"}
    assert problems(people, [{"name": "a", "age": 1}], **shared) == []
    assert problems(people, [{"name": 1}, {"age": 1.0}], **shared) == [
        "argument 'x[0].name' must be string, not integer",
        "missing argument 'x[1].name' (string)",
        "argument 'x[1].age' must be integer, not number",
    ]


def test_a_schema_that_refers_to_itself_checks_a_tree_of_any_depth():
    tree: Json = {
        "type": "object",
        "properties": {"child": {"$ref": "#/$defs/tree"}, "n": {"type": "integer"}},
    }
    value: Json = {"child": {"child": {"n": "x"}}}
    text = "argument 'x.child.child.n' must be integer, not string"
    assert problems({"$ref": "#/$defs/tree"}, value, **{"$defs": {"tree": tree}}) == [text]


def test_arguments_nested_too_deeply_are_an_observation():
    value: Json = {}
    for _ in range(5000):
        value = {"child": value}
    tree: Json = {"properties": {"child": {"$ref": "#/$defs/tree"}}}
    (text,) = problems({"$ref": "#/$defs/tree"}, value, **{"$defs": {"tree": tree}})
    assert text == "the arguments are nested too deeply to be checked"


def test_a_value_of_the_wrong_type_or_choice_is_not_looked_into():
    schema: Json = {"pattern": "^a", "type": "integer", "enum": [1], "minimum": 5, "anyOf": [{"const": 2}]}
    assert problems(schema, "b") == ["argument 'x' must be integer, not string"]
    assert problems(schema, 0) == ["argument 'x' must be one of [1]"]


def test_at_most_five_problems_are_listed():
    names = [f"n{k}" for k in range(9)]
    tool = ToolSchema.of("t", "", {name: {"type": "string"} for name in names}, names)
    assert ArgumentCheck(tool).problems({}) == [f"missing argument '{name}' (string)" for name in names[:5]]


def test_unknown_names_are_refused_for_our_own_tools_and_where_the_schema_says_so():
    raw: dict[str, Json] = {"type": "object", "properties": {"a": {}}}
    unknown = ["unknown argument 'b'; arguments: a"]
    assert ArgumentCheck(ToolSchema("t", "", raw)).problems({"b": 1}) == []
    assert (
        ArgumentCheck(ToolSchema("t", "", {**raw, "additionalProperties": False})).problems({"b": 1})
        == unknown
    )
    assert ArgumentCheck(ToolSchema.of("t", "", {"a": {}})).problems({"b": 1}) == unknown


def test_a_schema_is_not_changed_by_its_check():
    tool = ToolSchema(
        "t", "", {"required": ["a"], "type": "object", "$schema": "x:y", "properties": {"a": False}}
    )
    before = repr(tool)
    ArgumentCheck(tool)
    assert repr(tool) == before


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"type": "string"}, r"tool 't': parameters.type is 'string'; .* an object"),
        ({"properties": {"a": {"type": "text"}}}, r"parameters.properties.a.type is invalid: 'text'"),
        ({"properties": {"a": {"items": [{}]}}}, r"parameters.properties.a.items is invalid"),
        ({"required": "a"}, r"parameters.required is invalid"),
        ({"allOf": [{"pattern": "("}]}, r"parameters.allOf.0 has the pattern '\('"),
        ({"patternProperties": {"[": {}}}, r"parameters has the pattern '\['"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, r"parameters.properties.a.\$ref is '#/\$defs/b'"),
        ({"properties": {"a": {"$ref": "#/properties"}}}, r"is '#/properties', which is not a schema inside"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, r"which is not a schema inside this one"),
        ({"$ref": "#"}, r"refers to itself without end"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, r"use one of them"),
        ({"default": {1, 2}}, r"parameters is not JSON"),
        ([], r"parameters is \[\]; a JSON Schema of type object"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_by_tool_and_place(parameters: dict[str, Json], text: str):
    with pytest.raises(ToolError, match=r"^tool 't': ") as refused:
        ToolRegistry([Never(ToolSchema("t", "", parameters))])
    assert refused.match(text)


class Never:
    """A tool whose calls must not run."""

    def __init__(self, schema: ToolSchema) -> None:
        self.schema = schema

    def is_available(self) -> tuple[bool, str]:
        return True, ""

    async def execute(self, arguments: object, context: ToolContext) -> ToolResult:
        raise AssertionError("ran")


async def test_arguments_of_a_schema_as_mcp_gives_it_are_checked_before_the_tool_runs():
    schema: dict[str, Json] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"Id": {"type": "string", "pattern": "^[A-Z]{3}$"}},
        "properties": {
            "id": {"$ref": "#/$defs/Id"},
            "when": {"type": "string", "format": "date"},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "required": ["id"],
    }
    arguments: dict[str, Json] = {"id": "abc", "when": "31.1.2026", "limit": "many"}
    result = await ToolRegistry([Never(ToolSchema("find", "", schema))]).execute(
        ToolCall("find", arguments), ToolContext()
    )
    assert result.error == (
        "Invalid arguments for find: argument 'id' must match the pattern /^[A-Z]{3}$/; "
        "argument 'when' must have the format date, as 2026-01-31; "
        "argument 'limit' must be integer or null, not string"
    )


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    ),
    st.lists(st.sampled_from([*TYPES, ["string", "null"], None]), min_size=3, max_size=3),
    st.booleans(),
)
def test_arguments_of_plain_types_are_judged_as_the_validator_judges_them(arguments, types, closed):
    properties = {
        name: {} if type is None else {"type": type} for name, type in zip("abc", types, strict=True)
    }
    schema = {"type": "object", "properties": properties, "required": ["a"]}
    plain = ToolSchema("t", "T.", schema, closed=closed)
    checked = ToolSchema("t", "T.", {**schema, "minProperties": 0}, closed=closed)
    assert ArgumentCheck(plain).problems(arguments) == ArgumentCheck(checked).problems(arguments)
