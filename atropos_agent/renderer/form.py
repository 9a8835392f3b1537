"""Messages as a chat template takes them. Templates differ on the fields for calls and for reasoning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from atropos_agent.errors import RenderError
from atropos_agent.trajectory import Content, Json, Message, MessageCall

Render: TypeAlias = Callable[[Sequence[Mapping[str, object]]], str]

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
# Words that no template holds by itself: finding one in a rendering proves that the field is shown.
_ARGUMENTS = {"command": "Zq7argumentKx"}
_THOUGHT = "Zq7thoughtKx"
_QUESTION: Message = {"role": "user", "content": "What is it?"}
CALL: MessageCall = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "terminal", "arguments": _ARGUMENTS},
}
_RESULT: Message = {"role": "tool", "name": "terminal", "tool_call_id": CALL["id"], "content": "a.txt"}


class CallArguments(StrEnum):
    """How a template takes the arguments of a structured call."""

    MAPPING = "mapping"
    TEXT = "JSON text"
    NOT_SHOWN = "not shown"


NOT_SHOWN = CallArguments.NOT_SHOWN


@dataclass(frozen=True, slots=True)
class Form:
    """How a template takes what is not plain text.

    `parts`: content goes as a list of parts. `reasoning_field`: the key of an assistant message whose text
    is shown as reasoning, empty where there is none. `arguments`: see CallArguments.
    """

    parts: bool = False
    reasoning_field: str = ""
    arguments: CallArguments = CallArguments.MAPPING


def is_plain(message: Message) -> bool:
    """True where a template that takes content as a string takes `message` as it is."""
    return isinstance(message["content"], str) and "tool_calls" not in message and "reasoning" not in message


def fill_in(message: Message, index: int, form: Form) -> Mapping[str, object]:
    """Message number `index` as a template of this form takes it.

    Raises RenderError for a part that is not text and for calls that the template does not show.
    """
    where = f"message {index} ({message['role']})"
    filled: dict[str, object] = {**message, "content": _content(message["content"], where, form)}
    if message["role"] != "assistant":
        return filled
    # Templates test whether a key exists, so an empty field must be left out.
    reasoning, calls = filled.pop("reasoning", ""), filled.pop("tool_calls", ())
    if reasoning and form.reasoning_field:
        filled[form.reasoning_field] = reasoning
    if calls:
        filled["tool_calls"] = _calls(message.get("tool_calls", ()), where, form)
    return filled


def _content(content: Content, where: str, form: Form) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form.parts else content
    texts: list[str] = []
    for number, part in enumerate(content):
        if part["type"] != "text":
            raise RenderError(
                f"{where}: part {number} is of type {part['type']!r}, and only text becomes token ids here; "
                "take it out, or use a server that renders chat messages itself"
            )
        texts.append(part["text"])
    return [{"type": "text", "text": text} for text in texts] if form.parts else "".join(texts)


def _calls(calls: Sequence[MessageCall], where: str, form: Form) -> list[Mapping[str, object]]:
    if form.arguments is NOT_SHOWN:
        raise RenderError(
            f"{where}: this chat template does not show tool_calls; write the calls into the content"
        )
    return [_call(call, form.arguments) for call in calls]


def _call(call: MessageCall, form: CallArguments) -> Mapping[str, object]:
    function = call["function"]
    arguments: object = plain_json(function["arguments"])
    if form is CallArguments.TEXT:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def plain_json(value: Json) -> Json:
    """A copy of `value` in dicts and lists: the filter `tojson` takes no other mapping."""
    if isinstance(value, Mapping):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_json(item) for item in value]
    return value


def find_form(render: Render, *, parts: bool) -> Form:
    """Find which fields are shown. `render` may raise RenderError: a refused field counts as not shown."""
    arguments = next((form for form in CallArguments if _shows_calls(render, parts, form)), NOT_SHOWN)
    found = (Form(parts, key, arguments) for key in REASONING_FIELDS)
    return next((form for form in found if _shows_reasoning(render, form)), Form(parts, arguments=arguments))


def _shows_calls(render: Render, parts: bool, arguments: CallArguments) -> bool:
    """True where the arguments are shown, and not in the notation of Python."""
    if arguments is NOT_SHOWN:
        return False
    called: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    shown = _renderings(render, called, Form(parts, arguments=arguments))
    if arguments is CallArguments.TEXT:
        return json.dumps(_ARGUMENTS) in shown
    return _ARGUMENTS["command"] in shown and str(_ARGUMENTS) not in shown


def _shows_reasoning(render: Render, form: Form) -> bool:
    """True where reasoning is shown, beside a text or beside a call."""
    thought: Message = {"role": "assistant", "content": "It is.", "reasoning": _THOUGHT}
    if _THOUGHT in _renderings(render, thought, form):
        return True
    if form.arguments is NOT_SHOWN:
        return False
    calling: Message = {"role": "assistant", "content": "", "reasoning": _THOUGHT, "tool_calls": [CALL]}
    return _THOUGHT in _renderings(render, calling, form)


def _renderings(render: Render, answer: Message, form: Form) -> str:
    """Everything that is shown of `answer`, as the last message and before a result."""
    shown = []
    for talk in ([_QUESTION, answer], [_QUESTION, answer, _RESULT]):
        try:
            shown.append(render([fill_in(message, at, form) for at, message in enumerate(talk)]))
        except RenderError:
            continue
    return "".join(shown)
