"""Compares bridges with the template's own rendering during a rollout, because no probe covers all contents.

Every turn compares a window, at a cost that does not grow: the opening, the last exchanges, and what is
new. Turns 1, 2, 4, 8, ... compare the whole conversation, and its end compares every bridge of it: the
total cost is linear. An exchange is an assistant's text and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from atropos_agent.errors import RenderError
from atropos_agent.renderer.turns import Turns, calls_of
from atropos_agent.trajectory import Message

RECENT_EXCHANGES = 2


def holds_at(turns: Turns, messages: Sequence[Message], suffix: str, *, turn: int) -> bool:
    """True where the template writes exactly `suffix` after the last assistant's text of `messages`.

    A window that differs or is refused is not proof of a mismatch: then the whole conversation is compared.
    """
    whole = turn & (turn - 1) == 0
    return (not whole and _window_shows(turns, messages, suffix)) or _shows_last(turns, messages, suffix)


def _window_shows(turns: Turns, messages: Sequence[Message], suffix: str) -> bool:
    try:
        return _shows_last(turns, window(messages), suffix)
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
    turns: Turns, messages: Sequence[Message], *, earlier: bool = True
) -> tuple[int, str] | None:
    """The first bridge of a conversation that its rendering does not show in order.

    Returns the index of the assistant message and the missing text, None where all are there. `earlier`
    False checks the last bridge only.
    """
    *before, (last, following) = exchanges_of(messages)
    messages = messages[: last + 1 + len(following)]
    suffix = turns.after(messages[last], following)
    rendered = turns.template.text(messages)
    missing = first_missing(turns, rendered, messages, before) if earlier else None
    if missing is None and not _shows_last(turns, messages, suffix, rendered):
        return last, suffix
    return missing


def first_missing(
    turns: Turns,
    rendered: str,
    messages: Sequence[Message],
    exchanges: Sequence[tuple[int, Sequence[Message]]],
) -> tuple[int, str] | None:
    """The first of these exchanges of `messages` that `rendered` does not show in order: its index and text.

    Of exchanges with equal texts, the last one is reported.
    """
    at, prompt = 0, turns.template.generation_prompt
    for index, following in exchanges:
        if calls_of(messages[index]) and not turns.calls_end:
            continue  # calls of the opening: never bridged, so there is no text to look for
        text = turns.after(messages[index], following).removesuffix(prompt)
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


def _shows_last(turns: Turns, messages: Sequence[Message], suffix: str, rendered: str | None = None) -> bool:
    """True where the rendering ends with `suffix`, right after the last assistant's turn, however its text
    was trimmed or stripped."""
    rendered = turns.template.text(messages) if rendered is None else rendered
    if not rendered.endswith(suffix):
        return False
    last = last_assistant(messages)
    if not calls_of(messages[last]):
        answer = turns.answer_of(messages[last])
        before = rendered[: len(rendered) - len(suffix)]
        if answer.strip() and before.endswith((answer.lstrip(), answer.strip())):
            return True
    # A mark also finds the end of calls, and of a text that the template rewrites beyond recognition.
    return turns.after_marked(messages, last) == suffix


def last_assistant(messages: Sequence[Message]) -> int:
    """The index of the last assistant message. Raises RenderError where nothing follows it."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "assistant":
            if index + 1 == len(messages):
                break
            return index
    raise RenderError("a bridge needs an assistant message and at least one message after it")
