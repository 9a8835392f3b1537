import asyncio
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import SandboxError, SandboxLost, ToolError
from atropos_agent.toolset import ToolContext, ToolRegistry, ToolSchema, bound_text
from atropos_agent.trajectory import Json, ToolCall, ToolResult

NO_CONTEXT = ToolContext()
ECHO = ToolSchema.of(
    name="echo",
    description="Say it — again.",
    properties={
        "text": {"type": "string", "description": "What to say."},
        "times": {"type": "integer", "minimum": 1, "maximum": 9},
        "mode": {"type": "string", "enum": ["loud", "low"]},
        "pair": {"type": "object", "properties": {"left": {"type": "number"}}, "required": ["left"]},
        "tags": {"type": "array", "items": {"type": ["string", "null"]}},
        "free": {},
    },
    required=("text",),
)


class FakeTool:
    """Answers with a result, or with what a function makes of the arguments and the context."""

    def __init__(self, answer: object = None, schema: ToolSchema = ECHO, why_not: str = "") -> None:
        self.schema = schema
        self.answer = answer if answer is not None else ToolResult(success=True, output="ok")
        self.why_not = why_not
        self.seen: list[tuple[Mapping[str, Json], ToolContext]] = []

    def is_available(self) -> tuple[bool, str]:
        return not self.why_not, self.why_not

    async def execute(self, arguments: Mapping[str, Json], context: ToolContext) -> ToolResult:
        self.seen.append((arguments, context))
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer == "hang":
            await asyncio.sleep(60)
        return self.answer  # type: ignore[return-value]


def call(name: str = "echo", /, **arguments: Json) -> ToolCall:
    return ToolCall(name=name, arguments=arguments, uniq_id="c1")


async def run(
    answer: object = None, /, *, limit: int = 16_000, context: ToolContext = NO_CONTEXT
) -> ToolResult:
    registry = ToolRegistry([FakeTool(answer)], max_observation_chars=limit)
    return await registry.execute(call(text="hi"), context)


def test_the_openai_schema_has_properties_and_required():
    assert ECHO.to_dict() == {
        "type": "function",
        "function": {
            "name": "echo",
            "description": "Say it — again.",
            "parameters": {"type": "object", "properties": ECHO.properties, "required": ["text"]},
        },
    }


def test_the_prompt_definitions_are_the_hermes_shape():
    short = ToolSchema.of("terminal", "Run — it.", {"command": {"type": "string"}}, ("command",))
    registry = ToolRegistry([FakeTool(schema=short), FakeTool()])
    text = registry.get_prompt_tool_definitions_json()
    assert text.startswith(
        '[{"name": "terminal", "description": "Run — it.", "parameters": {"type": "object", "properties": '
        '{"command": {"type": "string"}}, "required": ["command"]}, "required": null}, {"name": "echo"'
    )
    assert [list(entry) for entry in json.loads(text)] == [
        ["name", "description", "parameters", "required"]
    ] * 2
    assert ToolRegistry().get_prompt_tool_definitions_json() == "[]"


def test_the_prompt_description_says_what_each_argument_is():
    lines = ToolRegistry([FakeTool()]).get_prompt_description().splitlines()
    assert lines[:3] == [
        "**echo**: Say it — again.",
        "- `text` (string) (required): What to say.",
        "- `times` (integer) (optional)",
    ]


def test_the_same_name_replaces_and_order_is_kept():
    first, second, other = FakeTool(), FakeTool(), FakeTool(schema=ToolSchema.of("other", ""))
    registry = ToolRegistry([first, other, second])
    assert (len(registry), registry.list_tools()) == (2, ["echo", "other"])
    assert registry.get("echo") is second
    assert registry.get("nothing") is None


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "a\n"])
def test_a_bad_tool_name_is_refused(name: str):
    with pytest.raises(ToolError, match="tool name"):
        ToolSchema.of(name, "")


def test_a_required_argument_must_be_described():
    with pytest.raises(ToolError, match="command"):
        ToolSchema.of("t", "", {}, ("command",))


async def test_a_call_reaches_the_tool_with_its_context():
    tool, context = FakeTool(), ToolContext(rollout_id="r1")
    result = await ToolRegistry([tool]).execute(call(text="hi", times=2), context)
    assert (result.output, result.uniq_id) == ("ok", "c1")
    assert tool.seen == [({"text": "hi", "times": 2}, context)]


async def test_an_id_set_by_the_tool_is_kept():
    assert (await run(ToolResult(success=True, uniq_id="mine"))).uniq_id == "mine"


async def test_an_unknown_tool_is_named_with_what_exists():
    result = await ToolRegistry([FakeTool()]).execute(call("ecko"), NO_CONTEXT)
    assert result.error == "Unknown tool: ecko (did you mean 'echo'?); tools: echo"
    assert (result.success, result.uniq_id) == (False, "c1")
    assert (await ToolRegistry().execute(call("x"), NO_CONTEXT)).error == "Unknown tool: x; tools: none"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "missing argument 'text' (string)"),
        ({"text": 3}, "argument 'text' must be string, not integer"),
        ({"text": None}, "argument 'text' must be string, not null"),
        ({"text": "", "times": True}, "argument 'times' must be integer, not boolean"),
        ({"text": "", "times": 1.5}, "argument 'times' must be integer, not number"),
        ({"text": "", "times": 0}, "argument 'times' must be at least 1"),
        ({"text": "", "times": 10}, "argument 'times' must be at most 9"),
        ({"text": "", "mode": "high"}, 'argument \'mode\' must be one of ["loud", "low"]'),
        ({"text": "", "pair": {}}, "missing argument 'pair.left' (number)"),
        ({"text": "", "pair": {"left": "x"}}, "argument 'pair.left' must be number, not string"),
        ({"text": "", "tags": ["a", 1]}, "argument 'tags[1]' must be string or null, not integer"),
        ({"text": "", "time": 1}, "unknown argument 'time' (did you mean 'times'?); arguments: text, times,"),
    ],
)
async def test_bad_arguments_are_an_observation_and_nothing_runs(arguments: dict[str, Json], problem: str):
    tool = FakeTool()
    result = await ToolRegistry([tool]).execute(call(**arguments), NO_CONTEXT)
    assert not result.success
    assert result.error.startswith(f"Invalid arguments for echo: {problem}")
    assert tool.seen == []


async def test_arguments_of_every_described_type_pass():
    arguments = {
        "text": "",
        "times": 9,
        "mode": "low",
        "pair": {"left": 1, "more": []},
        "tags": [None],
        "free": 1,
    }
    assert (await ToolRegistry([FakeTool()]).execute(call(**arguments), NO_CONTEXT)).success


async def test_an_unavailable_tool_says_why():
    result = await ToolRegistry([FakeTool(why_not="no display")]).execute(call(text=""), NO_CONTEXT)
    assert result.error == "Tool echo is not available: no display"


@pytest.mark.parametrize(
    "error", [ValueError("bad"), SandboxError("disk"), RecursionError("deep"), TimeoutError("theirs")]
)
async def test_what_a_tool_raises_is_an_observation(error: Exception):
    result = await run(error)
    assert result.error == f"Tool execution error: {type(error).__name__}: {error}"
    assert (result.success, result.uniq_id) == (False, "c1")


@pytest.mark.parametrize("answer", ["text", ToolResult(success=True, metadata={"x": object()})])  # type: ignore[dict-item]
async def test_an_answer_that_is_no_result_is_an_observation(answer: object):
    assert (await run(answer)).error.startswith("Tool execution error: ")


async def test_a_lost_sandbox_passes():
    with pytest.raises(SandboxLost):
        await run(SandboxLost("gone"))


async def test_a_cancel_passes():
    task = asyncio.create_task(run("hang"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_observation_is_bounded_with_head_and_tail():
    result = await run(
        ToolResult(success=True, output="a" * 5000 + "z", error="e" * 5000, metadata={"m": "m" * 5000}),
        limit=1000,
    )
    assert len(result.output) + len(result.error) <= 1000
    assert result.output.startswith("aaa")
    assert result.output.endswith("z")
    assert result.metadata == {"omitted": "too long"}


async def test_a_long_error_text_is_bounded():
    assert len((await run(ValueError("x" * 10**6))).error) <= 4000


async def test_lone_surrogates_of_a_tool_are_replaced():
    assert (await run(ToolResult(success=True, output="a\ud800b😀"))).output == "a\ufffdb😀"


@given(st.text(), st.integers(0, 200))
def test_bound_text_keeps_the_budget_and_the_ends(text: str, budget: int):
    bounded = bound_text(text * 9, budget)
    assert len(bounded) <= budget or bounded == text * 9
    if len(text * 9) <= budget:
        assert bounded == text * 9


def test_bound_text_says_how_much_was_cut():
    text = "".join(chr(97 + index % 26) for index in range(1000))
    bounded = bound_text(text, 200)
    head, line, tail = bounded.split("\n")
    cut = int(line.split()[1])
    assert len(head) + cut + len(tail) == 1000
    assert text.startswith(head)
    assert text.endswith(tail)


def tools(**flags: bool) -> FakeTool:
    return FakeTool(schema=ToolSchema.of("-".join(flags) or "plain", "", **flags))


def test_calls_run_side_by_side_only_where_all_their_tools_say_so():
    registry = ToolRegistry([tools(), tools(parallel=True)])
    safe, plain, unknown = call("parallel"), call("plain"), call("nothing")
    assert registry.is_parallel([safe, safe, unknown])
    assert not registry.is_parallel([safe, plain])
    assert registry.is_parallel([])


def test_a_sandbox_is_needed_unless_every_tool_runs_outside():
    assert not ToolRegistry().needs_sandbox
    assert not ToolRegistry([tools(external=True)]).needs_sandbox
    assert ToolRegistry([tools(external=True), tools()]).needs_sandbox


def test_the_policy_is_not_told_what_is_parallel_or_external():
    plain, marked = (
        ToolRegistry([FakeTool(schema=ToolSchema.of("t", "T.", {"a": {}}, parallel=flag, external=flag))])
        for flag in (False, True)
    )
    assert plain.get_prompt_tool_definitions_json() == marked.get_prompt_tool_definitions_json()
    assert plain.get_prompt_description() == marked.get_prompt_description()
