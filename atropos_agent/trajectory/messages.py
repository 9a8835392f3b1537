"""Chat messages, typed by role, in the shape of the OpenAI chat API.

The TypedDicts come from `typing_extensions`: pydantic cannot read records through those of Python 3.11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from atropos_agent.trajectory.values import Json


class TextPart(TypedDict):
    """A piece of text inside a message."""

    type: Literal["text"]
    text: str


class ImageUrl(TypedDict):
    """Where an image is: a URL, a `data:` URL or a path. The image itself is never held here."""

    url: str


class ImagePart(TypedDict):
    """An image inside a message, by reference."""

    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart: TypeAlias = TextPart | ImagePart
Content: TypeAlias = str | Sequence[ContentPart]


class CalledFunction(TypedDict):
    """A function's name and its decoded arguments. Wires that want JSON text encode them."""

    name: str
    arguments: Mapping[str, Json]


class MessageCall(TypedDict):
    """One structured call of an assistant message."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class SystemMessage(TypedDict):
    """Instructions before the conversation."""

    role: Literal["system"]
    content: Content


class UserMessage(TypedDict):
    """A user's turn. In the Hermes dialect tool results are user messages too."""

    role: Literal["user"]
    content: Content


class AssistantMessage(TypedDict):
    """What the policy wrote. `reasoning` and `tool_calls` are set only where they are kept apart from the
    text: by a dialect, or by a server that parses them itself."""

    role: Literal["assistant"]
    content: Content
    reasoning: NotRequired[str]
    tool_calls: NotRequired[Sequence[MessageCall]]


class ToolMessage(TypedDict):
    """The result of the call `tool_call_id`."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: NotRequired[str]


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage


def text_of(message: Message) -> str:
    """The text of a message; images are left out."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def has_image(message: Message) -> bool:
    """True where the content holds an image."""
    content = message["content"]
    return not isinstance(content, str) and any(part["type"] == "image_url" for part in content)
