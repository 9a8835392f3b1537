"""Where the argument check spoke before jsonschema, it says the same, text for text and in the same order."""

from itertools import islice

from hypothesis import example, given, settings
from hypothesis import strategies as st

from atropos_agent.toolset.arguments import ArgumentCheck
from atropos_agent.trajectory import Json, ToolSchema
from tests.toolset.old_argument_check import argument_problems

NAMES = st.sampled_from(["a", "items", "type", "required", "enum"])
NUMBERS = st.integers(-4, 4) | st.sampled_from([-2.5, 0.5, 1.0, 3.0])
# Left out, because JSON Schema decides them and the old check erred: `true` is neither in `enum: [1]` nor
# subject to `minimum`. Other tests hold these.
CHOICES = st.lists(st.sampled_from(["x", "", None, 5, 2.5]), min_size=1, max_size=3, unique=True)
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(["x", "", "yes"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
TYPES = ["string", "integer", "number", "boolean", "null", "array", "object"]


@st.composite
def schemas(draw: st.DrawFn, depth: int = 3) -> dict[str, Json]:
    """A schema of the keywords of before, in any order."""
    kind = draw(st.sampled_from([*TYPES, "any", "several"]))
    found: dict[str, Json] = {}
    if kind == "several":
        found["type"] = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True))
    elif kind != "any":
        found["type"] = kind
    if kind in ("integer", "number"):
        found |= draw(st.fixed_dictionaries({}, optional={"minimum": NUMBERS, "maximum": NUMBERS}))
    if draw(st.integers(0, 4)) == 0:
        found["enum"] = draw(CHOICES)
    if depth and draw(st.booleans()):
        found["items"] = draw(schemas(depth - 1))
    if depth and draw(st.booleans()):
        found |= draw(objects(depth - 1))
    return {name: found[name] for name in draw(st.permutations(list(found)))}


@st.composite
def objects(draw: st.DrawFn, depth: int) -> dict[str, Json]:
    """`properties` and `required` of an object."""
    properties = draw(st.dictionaries(NAMES, schemas(depth), max_size=4))
    return {"required": draw(st.lists(NAMES, max_size=3, unique=True)), "properties": properties}


@settings(max_examples=300)
@example({"properties": {"a": {"type": "integer"}}}, {"a": 1.0}, True)
@given(objects(2), st.dictionaries(NAMES, VALUES, max_size=5), st.booleans())
def test_every_text_of_before_is_the_same_and_in_the_same_order(
    parameters: dict[str, Json], arguments: dict[str, Json], closed: bool
):
    tool = ToolSchema("t", "", {**parameters, "type": "object"}, closed=closed)
    said = argument_problems(tool, arguments)
    if not closed:  # the old check refused unknown names of every tool
        said = (text for text in said if not text.startswith("unknown argument"))
    assert ArgumentCheck(tool).problems(arguments) == list(islice(said, 5))
