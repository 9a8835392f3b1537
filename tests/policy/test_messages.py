"""What a server with parsers of its own says, and what our messages look like to it."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import MalformedReply
from atropos_agent.policy import Delta, HttpPolicy, Prompt, RequestInfo, Wire
from atropos_agent.policy.wires import Asked, ChatFormat
from atropos_agent.policy.wires.messages import decoded_arguments, outgoing, read_message
from atropos_agent.testing import FakePolicy, FakeReply, FakeServer
from atropos_agent.trajectory import (
    AssistantMessage,
    Completion,
    FinishReason,
    Message,
    Provenance,
    SamplingParams,
    ToolCall,
    ToolSchema,
)
from tests.completions import ids_of

RAW = '<think>\nhm\n</think>\n\nlook:<tool_call>\n{"name": "ls", "arguments": {"path": "/"}}\n</tool_call>'
CALL = {"id": "x1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "/"}'}}
PARSED = {"content": "look:", "reasoning_content": "hm", "tool_calls": [CALL]}
CALLED = (ToolCall("ls", {"path": "/"}, raw_text='{"path": "/"}'),)
SAMPLING = SamplingParams(max_tokens=200)


def answered(message: dict[str, object], finish: str = "stop", **choice: object) -> dict[str, object]:
    return {"choices": [{"message": message, "finish_reason": finish, **choice}]}


def read(message: dict[str, object], finish: str = "stop") -> Completion:
    return ChatFormat("m").read(answered(message, finish), Asked())


def entries(*pieces: str) -> dict[str, object]:
    listed = [{"token": piece, "bytes": list(piece.encode()), "logprob": -0.5} for piece in pieces]
    return {"content": listed}


def spelt(message: dict[str, object], *pieces: str, finish: str = "stop") -> Completion:
    answer = answered(message, finish, logprobs=entries(*pieces))
    return ChatFormat("m", Wire.CHAT_LOGPROBS).read(answer, Asked())


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_beside_the_content_is_kept(field):
    completion = read({"content": "42", field: "thought"})
    assert (completion.text, completion.reasoning, completion.notes) == ("42", "thought", ())


def test_calls_beside_a_text_keep_both_and_end_the_turn():
    completion = read(PARSED, "tool_calls")
    assert (completion.text, completion.reasoning, completion.calls) == ("look:", "hm", CALLED)
    assert completion.finish_reason is FinishReason.STOP


def test_calls_without_a_text_are_a_completion():
    completion = read({"content": None, "reasoning": "hm", "tool_calls": [CALL]}, "tool_calls")
    assert (completion.text, completion.reasoning, completion.calls) == ("", "hm", CALLED)
    assert completion.notes == ()


def test_the_older_function_call_is_a_call():
    message = {"content": None, "function_call": CALL["function"], "tool_calls": None}
    completion = read(message, "function_call")
    assert (completion.calls, completion.finish_reason) == (CALLED, FinishReason.STOP)


def test_a_call_that_fills_the_limit_was_cut():
    answer = answered(PARSED, "tool_calls") | {"usage": {"completion_tokens": 9}}
    completion = ChatFormat("m").read(answer, Asked(sampling=SamplingParams(max_tokens=9)))
    assert completion.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    "text",
    [
        '{"path": ',
        "[1]",
        "null",
        '"ls"',
        '{"n": NaN}',
        '{"n": 1e999}',
        '{"t": "\\ud800"}',
        "{" * 5000,
        '{"a": ' + "[" * 70 + "]" * 70 + "}",
    ],
)
def test_arguments_that_are_no_object_are_kept_as_written_and_noted(text):
    call = {"function": {"name": "ls", "arguments": text}}
    completion = read({"content": "", "tool_calls": [CALL, call]}, "tool_calls")
    assert completion.calls == (*CALLED, ToolCall("ls", {}, raw_text=text))
    assert completion.notes == ("unreadable_call_arguments",)
    assert [decoded_arguments(call.raw_text) is None for call in completion.calls] == [False, True]


@pytest.mark.parametrize("given", [None, "", " "])
def test_a_call_without_arguments_has_none(given):
    completion = read({"content": None, "tool_calls": [{"function": {"name": "ls", "arguments": given}}]})
    assert completion.calls == (ToolCall("ls", {}, raw_text=given or ""),)
    assert completion.notes == ()


def test_arguments_that_came_decoded_are_taken():
    call = {"function": {"name": "ls", "arguments": {"path": "/ä"}}}
    completion = read({"content": None, "tool_calls": [call]})
    assert completion.calls == (ToolCall("ls", {"path": "/ä"}, raw_text='{"path": "/ä"}'),)


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("ls", "tool_calls is 'ls'"),
        ([5], r"tool_calls\[\] is 5"),
        ([{}], r"tool_calls\[\].function is None"),
        ([{"function": {"name": None}}], "function.name is None"),
    ],
)
def test_calls_in_no_known_shape_are_refused(listed, named):
    with pytest.raises(MalformedReply, match=named):
        read({"content": "x", "tool_calls": listed})


def test_a_finished_message_that_says_nothing_is_refused_and_a_cut_one_is_not():
    silent = {"content": None, "reasoning": None, "tool_calls": []}
    with pytest.raises(MalformedReply, match="content is missing"):
        read(silent)
    assert read(silent, "length").text == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.text() | JSON.map(lambda value: json.dumps(value)))
def test_no_text_of_arguments_is_an_error_and_what_is_read_can_be_sent_again(text):
    said = read_message({"tool_calls": [{"function": {"name": "f", "arguments": text}}]}, FinishReason.STOP)
    (call,) = said.calls
    assert call.raw_text == text
    sent: AssistantMessage = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": call.arguments}}
        ],
    }
    orjson.dumps(outgoing([sent]))


# per-token entries


@pytest.mark.parametrize("end", ["", "<|im_end|>"])
def test_entries_spell_the_reasoning_that_was_parsed_out(end):
    completion = spelt({"content": "42", "reasoning": "hm"}, "<think>", "\nhm\n", "</think>", "\n\n42", end)
    assert completion.text == "<think>\nhm\n</think>\n\n42"
    assert (completion.reasoning, completion.notes) == ("hm", ())
    assert completion.token_bytes is not None
    assert completion.provenance is Provenance.FROM_LOGPROBS


def test_entries_that_name_no_end_of_turn_lose_nothing():
    completion = spelt({"content": "42", "reasoning": "hm"}, "<think>", "hm", "</think>", "4", "2")
    assert completion.text == "<think>hm</think>42"


def test_entries_spell_the_calls_that_were_parsed_out():
    completion = spelt(PARSED, *RAW.partition("</tool_call>"), finish="tool_calls")
    assert (completion.text, completion.calls) == (RAW, CALLED)
    assert completion.token_bytes is not None


def test_entries_spell_reasoning_that_never_ended():
    completion = spelt({"content": None, "reasoning": "hm"}, "<think>", "hm", finish="length")
    assert (completion.text, completion.reasoning, completion.notes) == ("<think>hm", "hm", ())


@pytest.mark.parametrize("pieces", [("42",), ("<think>hm</think>",), ("42", "hm"), ("<think>ho</think>42",)])
def test_entries_without_all_that_was_said_are_not_used(pieces):
    completion = spelt({"content": "42", "reasoning": "hm"}, *pieces)
    assert (completion.text, completion.reasoning, completion.token_bytes) == ("42", "hm", None)
    assert completion.notes == ("token_entries_incomplete",)


def test_entries_without_the_call_are_not_used():
    completion = spelt(PARSED, "<think>hm</think>look:", finish="tool_calls")
    assert (completion.calls, completion.notes) == (CALLED, ("token_entries_incomplete",))


@pytest.mark.parametrize("wire", [Wire.CHAT_IDS, Wire.CHAT_LOGPROBS, Wire.CHAT])
async def test_a_parsing_server_is_read_over_every_chat_wire(wire, prompt):
    async with (
        FakeServer(lambda ask: FakeReply(RAW, message=PARSED), wire=wire) as server,
        HttpPolicy(server.url) as policy,
    ):
        completion = await policy.complete(prompt, SAMPLING)
        assert (await policy.probe()).wire is wire
    assert completion.text == ("look:" if wire is Wire.CHAT else RAW)
    assert (completion.reasoning, completion.calls, completion.notes) == ("hm", CALLED, ())
    assert completion.finish_reason is FinishReason.STOP
    scripted = await FakePolicy([FakeReply(RAW, message=PARSED)], wire=wire).complete(prompt, SAMPLING)
    assert (scripted.text, scripted.reasoning) == (completion.text, completion.reasoning)
    assert scripted.calls == completion.calls
    if wire is Wire.CHAT_IDS:
        assert ids_of(completion).tolist() == ids_of(scripted).tolist()


async def test_a_server_that_takes_ids_parses_nothing(prompt):
    completion = await FakePolicy([FakeReply(RAW, message=PARSED)]).complete(prompt, SAMPLING)
    assert (completion.text, completion.reasoning, completion.calls) == (RAW, "", ())


# requests


def sent(messages: list[Message], tools: tuple[ToolSchema, ...] = ()) -> dict[str, object]:
    return orjson.loads(ChatFormat("m").body(Prompt(messages, tools), SamplingParams()))


def test_reasoning_and_calls_go_out_in_the_shape_of_the_openai_api():
    said: AssistantMessage = {
        "role": "assistant",
        "content": "look:",
        "reasoning": "hm",
        "tool_calls": [
            {
                "id": "1.1",
                "type": "function",
                "function": {"name": "ls", "arguments": {"path": "ä", "n": 2**70}},
            }
        ],
    }
    answer: Message = {"role": "tool", "content": "a.txt", "tool_call_id": "1.1", "name": "ls"}
    first, second = sent([said, answer])["messages"]
    function = first.pop("tool_calls")[0]["function"]
    assert json.loads(function["arguments"]) == {"path": "ä", "n": 2**70}
    assert first == {"role": "assistant", "content": "look:", "reasoning_content": "hm"}
    assert second == answer
    assert said["reasoning"] == "hm"


def test_messages_without_such_fields_are_sent_as_they_are():
    parts: list[Message] = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert outgoing(parts) is parts
    assert sent(parts)["messages"] == parts


def test_tools_are_sent_only_where_there_are_any():
    tool = ToolSchema.of("ls", "List.", {"path": {"type": "string"}}, ("path",))
    asked: list[Message] = [{"role": "user", "content": "hi"}]
    assert sent(asked, (tool,))["tools"] == [tool.to_dict()]
    assert "tools" not in sent(asked)
    assert Prompt(asked).tools == ()


def test_a_request_may_carry_where_its_pieces_go():
    pieces: list[Delta] = []
    RequestInfo(on_delta=pieces.append).on_delta(Delta("a", (97,)))
    assert pieces == [Delta("a", (97,))]
    assert np.array(pieces[0].token_ids).tolist() == [97]
