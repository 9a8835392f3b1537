import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atropos_agent.dialects import ParsedCompletion
from atropos_agent.dialects.hermes.parser import parse
from atropos_agent.dialects.hermes.writing import CLOSE_TAG, OPEN_TAG, render_call, repair_hint
from atropos_agent.trajectory import ParseErrorKind

LS = '<tool_call>{"name": "terminal", "arguments": {"command": "ls"}}</tool_call>'


def commands(parsed: ParsedCompletion) -> list[object]:
    return [call.arguments.get("command") for call in parsed.calls]


def kinds(parsed: ParsedCompletion) -> list[ParseErrorKind]:
    return [error.kind for error in parsed.errors]


def block(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def test_text_without_tags_is_content():
    parsed = parse("  The answer is 4.\n")
    assert parsed == ParsedCompletion(reasoning="", content="The answer is 4.", calls=(), errors=())


def test_two_blocks_with_prose_between_are_two_calls_in_order():
    parsed = parse(f"first {LS} then {LS.replace('ls', 'pwd')} done")
    assert commands(parsed) == ["ls", "pwd"]
    assert parsed.errors == ()
    assert parsed.content == "first  then  done"


def test_a_call_has_its_span_and_raw_text_and_no_id_of_the_model():
    text = 'x <tool_call>\n{"id": 7, "name": "t", "arguments": {}, "uniq_id": "a"}\n</tool_call> y'
    (call,) = parse(text).calls
    assert text[slice(*call.span)] == text[2:-2]
    assert json.loads(call.raw_text)["id"] == 7
    assert call.uniq_id == ""


def test_reasoning_is_apart_from_content():
    parsed = parse(f"<think>\nlook first\n</think>\nok {LS}")
    assert (parsed.reasoning, parsed.content, commands(parsed)) == ("look first", "ok", ["ls"])


def test_several_reasoning_blocks_are_joined():
    assert parse("<think>a</think>b<think>c</think>d").reasoning == "a\nc"


def test_a_call_inside_reasoning_is_flagged_and_not_a_call():
    text = f"<think>maybe {LS}</think>done"
    parsed = parse(text)
    assert parsed.calls == ()
    assert kinds(parsed) == [ParseErrorKind.INSIDE_REASONING]
    assert text[slice(*parsed.errors[0].span)] == LS
    assert parsed.content == "done"


def test_a_mention_of_the_tag_inside_reasoning_is_no_error():
    parsed = parse(f"<think>I must use <tool_call> tags, not <TOOL_CALL x=1>.</think>{LS}")
    assert (commands(parsed), parsed.errors) == (["ls"], ())


def test_a_prompt_that_left_reasoning_open_starts_inside_it():
    parsed = parse(f"think {LS} more</think>{LS}", inside_reasoning=True)
    assert commands(parsed) == ["ls"]
    assert kinds(parsed) == [ParseErrorKind.INSIDE_REASONING]
    assert parsed.reasoning.startswith("think ")


def test_a_call_after_reasoning_that_holds_a_broken_call_is_kept():
    parsed = parse(f'<think><tool_call>{{"name": "x</think>{LS}')
    assert (commands(parsed), parsed.errors) == (["ls"], ())


@pytest.mark.parametrize("text", ["<think>so {LS}", "so {LS}"])
def test_unclosed_reasoning_is_reported(text: str):
    parsed = parse(text.format(LS=LS), inside_reasoning=not text.startswith("<"))
    assert parsed.calls == ()
    assert parsed.content == ""
    assert set(kinds(parsed)) == {ParseErrorKind.INSIDE_REASONING, ParseErrorKind.UNCLOSED_REASONING}


def test_reasoning_that_a_limit_cut_is_no_error():
    assert parse("<think>so", truncated=True) == ParsedCompletion("so", "", (), ())


@pytest.mark.parametrize(
    "text", [LS[:-12], LS[:-1], LS[:-6], LS[:40], "ok <tool_call>", "ok <tool_call", f"{OPEN_TAG}{LS[:-12]}"]
)
@pytest.mark.parametrize("truncated", [True, False])
def test_an_unclosed_call_is_reported_and_not_run(text: str, truncated: bool):
    parsed = parse(text, truncated=truncated)
    assert parsed.calls == ()
    assert set(kinds(parsed)) == {ParseErrorKind.UNCLOSED}
    assert parsed.errors[-1].span[1] == len(text)
    assert ("limit" in parsed.errors[-1].detail) == truncated


def test_a_truncated_completion_may_end_within_the_opening_tag():
    parsed = parse("ok <tool_c", truncated=True)
    assert kinds(parsed) == [ParseErrorKind.UNCLOSED]
    assert parsed.errors[0].span == (3, 10)
    assert parsed.content == "ok"
    assert parse("ok <tool_c").content == "ok <tool_c"


def test_a_second_opening_tag_recovers_the_second_call():
    first = LS.removesuffix(CLOSE_TAG)
    parsed = parse(f"{first}{LS.replace('ls', 'pwd')}")
    assert commands(parsed) == ["pwd"]
    assert kinds(parsed) == [ParseErrorKind.UNCLOSED]
    assert parsed.errors[0].span == (0, len(first))


def test_a_tag_broken_off_recovers_the_call_after_it():
    parsed = parse(f"x <tool_call {LS}")
    assert (commands(parsed), kinds(parsed)) == (["ls"], [ParseErrorKind.UNCLOSED])


def test_a_call_broken_off_inside_a_string_recovers_the_next_one():
    parsed = parse(f'<tool_call>{{"name": "terminal", "arguments": {{"command": "ec{LS}')
    assert commands(parsed) == ["ls"]
    assert kinds(parsed) == [ParseErrorKind.UNCLOSED]


@pytest.mark.parametrize(
    ("arguments", "reason", "at"),
    [
        ('{"a": 1,}', "Expecting property name enclosed in double quotes", 35),
        ('{"a": "x" , \n}', "Expecting property name enclosed in double quotes", 40),
        ('{"a": [1, ]}', "Expecting value", 37),
        ('{"a": 1,, }', "Expecting property name enclosed in double quotes", 35),
    ],
)
def test_what_a_policy_reads_of_a_stray_comma_is_the_same_on_every_python(arguments, reason, at):
    (error,) = parse(block(f'{{"name": "t", "arguments": {arguments}}}')).errors
    assert error.detail.startswith(f"invalid JSON: {reason} at character {at}, near ")


def test_a_call_quoted_in_a_string_of_a_broken_call_is_not_run():
    inner = "<tool_call>rm{}</tool_call>"
    parsed = parse(block(f'{{"name": "write", "arguments": {{"content": "{inner}", }}}}'))
    assert parsed.calls == ()
    assert kinds(parsed) == [ParseErrorKind.INVALID_JSON]


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "t", "arguments": {"a": 1,}}',
        "{'name': 't', 'arguments': {}}",
        '{"name": "t", "arguments": {"a": "\\d"}}',
        '{"name": "t", "arguments": {"a": NaN}}',
        '{"name": "t", "arguments": {"a": -Infinity}}',
        '{"name": "t", "arguments": {"a": 1e999}}',
        '{"name": "t", "arguments": {"a": "\\ud800"}}',
        '{"name": "t", "arguments": {"a": "\ud800"}}',
        '{"name": "t", "arguments": {"a": ' + "9" * 5000 + "}}",
        '{"name": "t", "arguments": {"a": ' + "[" * 100 + "]" * 100 + "}}",
        '{"name": "t", "arguments": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}",
        "[" * 100_000,
        '{"name": "t", "arguments": {}',
    ],
    ids=lambda body: body[26:60],
)
def test_json_that_cannot_be_read_is_reported_with_its_block(body: str):
    text = f"a {block(body)} b {LS}"
    parsed = parse(text)
    assert commands(parsed) == ["ls"]
    assert kinds(parsed) == [ParseErrorKind.INVALID_JSON]
    assert text[slice(*parsed.errors[0].span)] == block(body)
    assert len(parsed.errors[0].detail) < 200


@pytest.mark.parametrize("body", ["", "ls -la", '"ls"', "5", "null", "[]", '["ls"]', "<b>"])
def test_a_body_that_is_no_object_is_reported(body: str):
    parsed = parse(block(body))
    assert parsed.calls == ()
    assert kinds(parsed) == [ParseErrorKind.NOT_AN_OBJECT]


def test_a_raw_newline_inside_a_string_is_accepted():
    assert commands(parse(block('{"name": "t", "arguments": {"command": "a\nb"}}'))) == ["a\nb"]


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "\n``` {}```\n"])
def test_code_fences_are_stripped(fence: str):
    parsed = parse(block(fence.replace("{}", '{"name": "t", "arguments": {"command": "ls"}}')))
    assert (commands(parsed), parsed.errors) == (["ls"], ())


def test_a_closing_tag_inside_a_string_is_text():
    command = "echo '</tool_call>' <tool_call> \\\" <think>"
    text = block(json.dumps({"name": "t", "arguments": {"command": command}}))
    parsed = parse(text)
    assert (commands(parsed), parsed.errors) == ([command], ())
    assert parsed.calls[0].span == (0, len(text))


@pytest.mark.parametrize("size", [2030, 2048, 2060, 8192, 100_000])
def test_an_argument_longer_than_the_first_window_is_whole(size: int):
    command = "x" * (size - 40) + 'é\\"</tool_call>\u2028' + "y" * 40
    assert commands(parse(f"{render_call('t', {'command': command})}{LS}")) == [command, "ls"]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "t", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "t", "arguments": " "}', {}),
        ('{"name": "t", "arguments": "null"}', {}),
        ('{"name": "t", "arguments": null}', {}),
        ('{"name": "t"}', {}),
        ('{"name": "t", "parameters": {"a": 1}}', {"a": 1}),
        ('{"name": "t", "arguments": {}, "parameters": {"a": 1}}', {}),
        ('t{"a": 1}', {"a": 1}),
        (' t\n{"a": 1} ', {"a": 1}),
        ("t{}", {}),
    ],
)
def test_arguments_are_read_from(body: str, arguments: dict[str, int]):
    parsed = parse(block(body))
    assert [(call.name, call.arguments) for call in parsed.calls] == [("t", arguments)]
    assert parsed.errors == ()


@pytest.mark.parametrize("arguments", ['"ls"', '"[1]"', '"{\\"a\\": "', "[1]", "true", "3", '"\\"{}\\""'])
def test_arguments_that_are_no_object_are_reported(arguments: str):
    parsed = parse(block(f'{{"name": "t", "arguments": {arguments}}}'))
    assert parsed.calls == ()
    assert kinds(parsed) == [ParseErrorKind.BAD_ARGUMENTS]
    assert "'t'" in parsed.errors[0].detail


@pytest.mark.parametrize("body", ["{}", '{"name": ""}', '{"name": " "}', '{"name": 3}', '{"arguments": {}}'])
def test_a_call_without_a_name_is_reported(body: str):
    assert kinds(parse(block(body))) == [ParseErrorKind.MISSING_NAME]


def test_a_list_of_calls_is_each_of_them_and_bad_items_are_reported():
    parsed = parse(block('[{"name": "a"}, 3, {"name": "b", "arguments": {}}]'))
    assert [call.name for call in parsed.calls] == ["a", "b"]
    assert kinds(parsed) == [ParseErrorKind.NOT_AN_OBJECT]


@pytest.mark.parametrize(
    "text",
    [
        LS.upper(),
        LS.replace("<tool_call>", '<tool_call name="x">'),
        LS.replace("<tool_call>", "<tool_call >"),
        LS.replace("tool_call>", "tool_calls>"),
        LS.replace("</tool_call>", "</TOOL_CALL>"),
        LS.replace("</tool_call>", "</tool_call >"),
    ],
)
def test_a_tag_written_otherwise_is_reported_and_not_run(text: str):
    parsed = parse(f"a {text} b")
    assert parsed.calls == ()
    assert kinds(parsed) == [ParseErrorKind.MALFORMED_TAG]
    assert f"a {text} b"[slice(*parsed.errors[0].span)] == text
    assert parsed.content == "a  b"


def test_a_closing_tag_alone_is_reported():
    assert kinds(parse('{"name": "t"}</tool_call>')) == [ParseErrorKind.MALFORMED_TAG]


def test_other_tags_and_longer_words_are_content():
    text = "<tool_calling> <tool_response> <tools> <tool_call_id> </tool_calling>"
    assert parse(text) == ParsedCompletion("", text, (), ())


@pytest.mark.parametrize("tail", ["}", " now", '\n{"name": "u"}'])
def test_text_after_the_json_is_reported(tail: str):
    text = block('{"name": "t"}' + tail)
    parsed = parse(text + LS)
    assert kinds(parsed) == [ParseErrorKind.TRAILING_TEXT]
    assert parsed.errors[0].span == (0, len(text))
    assert commands(parsed) == ["ls"]


def test_offsets_hold_where_lower_case_is_longer():
    text = f"İİİ {LS}"
    (call,) = parse(text).calls
    assert text[slice(*call.span)] == LS


def test_the_hint_names_what_was_wrong_and_how_to_write_a_call():
    hint = repair_hint(parse("<tool_call>{'name': 1}</tool_call>" * 5).errors)
    assert "double quotes" in hint
    assert "and 2 more" in hint
    assert '{"name": ..., "arguments": {...}}' in hint


WORDS = """
    <tool_call> </tool_call> <think> </think> <TOOL_CALL> <tool_cal
    { } [ ] : , > < t K é İ ``` json NaN "name" \\ " \0 \\ud800
"""
ODD = [
    '{"name": "t", "arguments": {',
    '"a": 1',
    "<tool_call x",
    LS,
    "9" * 4400,
    "[" * 70,
    "\n",
    " ",
    "\ud800",
]
PIECES = st.sampled_from([*WORDS.split(), *ODD])
HOSTILE = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


@settings(max_examples=600)
@given(HOSTILE, st.booleans(), st.booleans())
def test_it_never_raises_and_spans_are_right(text: str, inside: bool, truncated: bool):
    parsed = parse(text, inside_reasoning=inside, truncated=truncated)
    for call in parsed.calls:
        raw = text[slice(*call.span)]
        assert raw.startswith(OPEN_TAG)
        assert raw.endswith(CLOSE_TAG)
        assert call.raw_text == raw[len(OPEN_TAG) : -len(CLOSE_TAG)].strip()
        json.dumps([call.name, call.arguments], ensure_ascii=False, allow_nan=False).encode()
    starts = [call.span[0] for call in parsed.calls]
    assert starts == sorted(starts)
    assert all(0 <= error.span[0] <= error.span[1] <= len(text) for error in parsed.errors)
    blocks = {call.span for call in parsed.calls}
    assert not any(a[0] < b[0] < a[1] for a in blocks for b in blocks)


@settings(max_examples=300)
@given(HOSTILE, HOSTILE)
def test_what_precedes_a_call_never_hides_an_error_or_the_call(before: str, after: str):
    parsed = parse(before + after)
    if "<tool_call>" in before + after and not parsed.reasoning:
        assert parsed.calls or parsed.errors


JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | PIECES.filter(
    lambda piece: "\ud800" not in piece
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JSON_TEXT, inner, max_size=4),
    max_leaves=12,
)
CALLS = st.tuples(JSON_TEXT.filter(str.strip), st.dictionaries(JSON_TEXT, JSON, max_size=4))


@settings(max_examples=300)
@given(st.lists(CALLS, max_size=4), st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"])))
def test_parsing_rendered_calls_is_the_identity(calls, prose: str):
    text = f"<think>{prose}</think>" + prose.join(render_call(name, arguments) for name, arguments in calls)
    parsed = parse(text)
    assert [(call.name, call.arguments) for call in parsed.calls] == calls
    assert parsed.errors == ()
    assert parsed.reasoning == prose.strip()


def cpu_s(text: str, samples: int) -> float:
    taken = []
    for _ in range(samples):
        start = time.process_time()
        parse(text)
        taken.append(time.process_time() - start)
    return min(taken)


def check_growth(text: Callable[[int], str]) -> None:
    """Forty times the text, for less than 400 times the cost: with its square it would be 1,600."""
    small, large = cpu_s(text(10_000), samples=3), cpu_s(text(400_000), samples=1)
    assert large < 400 * max(small, 1e-4)


UNITS = """
    <tool_call> <tool_call>{ <tool_call>{" <tool_call>[" <tool_call>[", <tool_call>\\" <tool_call>["\\"
    <tool_call>{"name":"x" <tool_call>[1,"a <tool_call>[[[[ <tool_call>``` <tool_call>a <tool_call>[NaN
    <tool_call <tool_calling </tool_call </tool_call> <TOOL_CALL> <think> <think><tool_call> <think></think>
    <tool_call>{}</tool_call> <tool_call>{'</tool_call>
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        *UNITS.split(),
        "<tool_call ",
        "<tool_call>" + " " * 9,
        LS,
        f"{LS}</think>",
        "<tool_call>" + "[" * 90,
        '<tool_call>["a","b',
    ],
)
def test_cost_grows_linearly_with_repeated(unit: str):
    check_growth(lambda size: unit * (size // len(unit)))


@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        ("<tool_call>", " ", ""),
        ("<tool_call>[", '{"name": "x"},', ""),
        ("<tool_call>[", '{"name": "x"},', "{}]</tool_call>"),
        ('<tool_call>{"name": "', '\\"', ""),
        ('<tool_call>{"name": "', "</tool_call>", ""),
        ('<tool_call>{"name": "', "<tool_call>", '", 3}'),
        ("<tool_call>", "[", ""),
        ("<tool_call>[", "<tool_call>", "]"),
        ("<think>", "<tool_call>{", "</think>"),
    ],
)
def test_cost_grows_linearly_with_a_long(head: str, unit: str, tail: str):
    check_growth(lambda size: head + unit * (size // len(unit)) + tail)
