"""Chat messages on the wire: ours as servers take them, theirs with what they parsed out of the text."""

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
"""Arguments nested deeper than this are not read: JSON writers have limits of their own."""
TEXT_FROM_REASONING = "text_from_reasoning"
UNREADABLE_ARGUMENTS = "unreadable_call_arguments"


class Said(NamedTuple):
    """What a server's message says: `content` as it stands there, and what it parsed out of the text itself.

    A call has the JSON text of its arguments in `raw_text`. Where that is not a JSON object, `arguments` is
    empty and the notes hold `unreadable_call_arguments`; `decoded_arguments` tells which call it is.
    """

    content: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_parsed(self) -> bool:
        """True where `content` is not all of what was sampled."""
        return bool(self.reasoning or self.calls)

    def with_text(self) -> Said:
        """The reasoning as the content, noted, where there is nothing else.

        Parsers put all of a completion there that never closed its reasoning, finished or cut off: it is what
        was sampled, and no closed reasoning is made of it.
        """
        if self.content or self.calls or not self.reasoning:
            return self
        return Said(self.reasoning, notes=(*self.notes, TEXT_FROM_REASONING))


def read_message(message: Payload, finish: FinishReason, where: str = "choices[0].message") -> Said:
    """What `message` says. A cut completion may say nothing yet; any other raises MalformedReply then."""
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
    """The arguments of a call from their JSON text, none for an empty text; None where it is no JSON object
    that can be passed on."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is not a character
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _nesting(value) <= MAX_NESTING else None


def outgoing(messages: Sequence[Message]) -> Sequence[Message | dict[str, object]]:
    """`messages` as servers take them: `reasoning` under the name `reasoning_content`, arguments of calls as
    JSON text. Nothing is copied where no message has either."""
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
    """The entries of `tool_calls`, or the one of its predecessor `function_call`."""
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
