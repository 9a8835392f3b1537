"""Chat messages on the wire: ours in the form that servers take, theirs with the parts that they parsed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Payload
from atropos_agent.trajectory import FinishReason, Json, Message, ToolCall

MAX_NESTING = 64
"""Deeper nested arguments are not read: JSON writers have their own limits on depth."""
TEXT_FROM_REASONING = "text_from_reasoning"
UNREADABLE_ARGUMENTS = "unreadable_call_arguments"


class Said(NamedTuple):
    """A server's message: its `content`, and the reasoning and calls that the server parsed out of the text.

    A call has the JSON text of its arguments in `raw_text`. If that is not a JSON object, `arguments` is
    empty and the notes have `unreadable_call_arguments`; `decoded_arguments` finds the call.
    """

    content: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_parsed(self) -> bool:
        """True if `content` is not all of what was sampled."""
        return bool(self.reasoning or self.calls)

    def with_text(self) -> Said:
        """The reasoning as the content, with a note, if there is nothing else.

        If a completion never closes its reasoning, parsers return all of its text as reasoning. That text is
        what was sampled, so it must not be rendered as closed reasoning.
        """
        if self.content or self.calls or not self.reasoning:
            return self
        return Said(self.reasoning, notes=(*self.notes, TEXT_FROM_REASONING))


def read_message(message: Payload, finish: FinishReason, where: str = "choices[0].message") -> Said:
    """Read `message`. Raises MalformedReply if it is empty, except for a completion that was cut."""
    content = message.get("content")
    reasonings = [message.get(name) for name in ("reasoning", "reasoning_content")]
    reasoning = next((text for text in reasonings if isinstance(text, str) and text), "")
    calls = tuple(_call(entry, where) for entry in _listed_calls(message, where))
    if content is None and not reasoning and not calls and finish is not FinishReason.LENGTH:
        raise MalformedReply(f"{where}.content is missing (null)")
    unreadable = any(decoded_arguments(call.raw_text) is None for call in calls)
    return Said(
        "" if content is None else common.string(content, f"{where}.content"),
        reasoning,
        calls,
        (UNREADABLE_ARGUMENTS,) if unreadable else (),
    )


def decoded_arguments(text: str) -> Mapping[str, Json] | None:
    """The arguments of a call from their JSON text; {} for an empty text; None if the text is not a JSON
    object that can be passed on."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate: UTF-8 has no form of it
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _nesting(value) <= MAX_NESTING else None


def outgoing(messages: Sequence[Message]) -> Sequence[Message | dict[str, object]]:
    """`messages` in the form that servers take: `reasoning` is named `reasoning_content`, arguments of calls
    are JSON text. Nothing is copied if no message has either."""
    if not any("reasoning" in message or "tool_calls" in message for message in messages):
        return messages
    return [_outgoing(message) for message in messages]


def _outgoing(message: Message) -> Message | dict[str, object]:
    if message["role"] != "assistant":
        return message
    sent: dict[str, object] = {**message}
    if "reasoning" in message:
        sent["reasoning_content"] = sent.pop("reasoning")
    if "tool_calls" in message:
        sent["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _json_text(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return sent


def _listed_calls(message: Payload, where: str) -> list[Payload]:
    """The entries of `tool_calls`, or the one call in its deprecated form `function_call`."""
    listed = message.get("tool_calls")
    if listed:
        return common.entries(listed, f"{where}.tool_calls")
    single = message.get("function_call")
    return [{"function": single}] if single else []


def _call(entry: object, where: str) -> ToolCall:
    function = common.mapping(
        common.mapping(entry, f"{where}.tool_calls[]").get("function"), f"{where}.tool_calls[].function"
    )
    name = common.string(function.get("name"), f"{where}.tool_calls[].function.name")
    given = function.get("arguments")
    text = given if isinstance(given, str) else "" if given is None else _json_text(given)
    return ToolCall(name, decoded_arguments(text) or {}, raw_text=text)


def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=dict)


def _refuse(literal: str) -> object:
    raise ValueError(f"{literal} is not a JSON number")


def _finite(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise ValueError(f"{literal} is out of range")
    return value


def _nesting(value: object) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
