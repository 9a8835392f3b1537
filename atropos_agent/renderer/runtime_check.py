"""What no probe can hold: the bridge, compared with the template's own rendering while a rollout goes on.

Every turn a window is compared, at a cost that does not grow: the opening, the last exchanges, and what is
new. Turns 1, 2, 4, 8, ... compare the whole conversation, and its end compares every bridge of it: linear
in all. An exchange is an assistant's text and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from atropos_agent.errors import RenderError
from atropos_agent.renderer.template import SENTINELS, ChatTemplate
from atropos_agent.trajectory import Message, text_of

RECENT_EXCHANGES = 2


def holds_at(template: ChatTemplate, messages: Sequence[Message], suffix: str, *, turn: int) -> bool:
    """True where the template writes exactly `suffix` after the last assistant's text of `messages`.

    A window that differs or is refused proves nothing; then, too, the whole conversation decides.
    """
    whole = turn & (turn - 1) == 0
    return (not whole and _window_shows(template, messages, suffix)) or _shows_last(
        template, messages, suffix
    )


def _window_shows(template: ChatTemplate, messages: Sequence[Message], suffix: str) -> bool:
    try:
        return _shows_last(template, window(messages), suffix)
    except RenderError:
        return False


def window(messages: Sequence[Message], exchanges: int = RECENT_EXCHANGES) -> Sequence[Message]:
    """The messages before the first assistant's text, and the last `exchanges` exchanges."""
    opening = next((at for at, message in enumerate(messages) if message["role"] == "assistant"), 0)
    start = len(messages)
    while start > opening and exchanges:
        start -= 1
        exchanges -= messages[start]["role"] == "assistant"
    return messages if start <= opening else [*messages[:opening], *messages[start:]]


def first_mismatch(
    template: ChatTemplate, messages: Sequence[Message], *, earlier: bool = True
) -> tuple[int, str] | None:
    """The first bridge of a conversation that its rendering does not show, and in that order.

    Returns the index of the assistant message and the missing text, None where all are there. `earlier`
    False looks for the last one alone.
    """
    *before, (last, following) = exchanges_of(messages)
    messages = messages[: last + 1 + len(following)]
    suffix = template.after_sentinel(following)
    rendered = template.text(messages)
    missing = first_missing(template, rendered, before) if earlier else None
    if missing is None and not _shows_last(template, messages, suffix, rendered):
        return last, suffix
    return missing


def first_missing(
    template: ChatTemplate, rendered: str, exchanges: Sequence[tuple[int, Sequence[Message]]]
) -> tuple[int, str] | None:
    """The first of these exchanges that `rendered` does not show in order: its index and its text.

    Of exchanges with equal texts, it is the last that is reported.
    """
    at = 0
    for index, following in exchanges:
        text = template.after_sentinel(following).removesuffix(template.generation_prompt)
        found = rendered.find(text, at)
        if found < 0:
            return index, text
        at = found + len(text)
    return None


def exchanges_of(messages: Sequence[Message]) -> list[tuple[int, Sequence[Message]]]:
    """Each assistant message with something after it: its index, and the messages until the next one."""
    return list(_exchanges(messages))


def _exchanges(messages: Sequence[Message]) -> Iterator[tuple[int, Sequence[Message]]]:
    indexes = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    for index, end in pairwise([*indexes, len(messages)]):
        if index + 1 < end:
            yield index, messages[index + 1 : end]


def _shows_last(
    template: ChatTemplate, messages: Sequence[Message], suffix: str, rendered: str | None = None
) -> bool:
    """True where the rendering ends with `suffix`, right after the last assistant's text, however that
    text itself was trimmed or stripped."""
    rendered = template.text(messages) if rendered is None else rendered
    if not rendered.endswith(suffix):
        return False
    last = last_assistant(messages)
    answer = text_of(messages[last]).rpartition("</think>")[2]
    before = rendered[: len(rendered) - len(suffix)]
    if answer.strip() and before.endswith((answer.lstrip(), answer.strip())):
        return True
    return _after_marked(template, messages, last) == suffix


def _after_marked(template: ChatTemplate, messages: Sequence[Message], last: int) -> str:
    """What follows a mark put behind that text, for templates that rewrite it beyond recognition."""
    mark = SENTINELS[0]
    marked: Message = {"role": "assistant", "content": text_of(messages[last]) + mark}
    return template.text([*messages[:last], marked, *messages[last + 1 :]]).partition(mark)[2]


def last_assistant(messages: Sequence[Message]) -> int:
    """The index of the last assistant message. Raises RenderError where nothing follows it."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "assistant":
            if index + 1 == len(messages):
                break
            return index
    raise RenderError("a bridge needs an assistant message and at least one message after it")
