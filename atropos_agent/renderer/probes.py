"""The conversations a chat template is tried on before it is trusted. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from atropos_agent.renderer.template import QUESTION, SENTINELS
from atropos_agent.trajectory import Message

Following: TypeAlias = tuple[Message, ...]

CORE_FOLLOWINGS = ("an observation", "a real user turn", "an unwrapped repair text")
REASON = "weigh both options"
SYSTEM: Message = {"role": "system", "content": "You use tools."}
OBSERVATION = '<tool_response>{"success": true, "output": "a.txt\\nb.txt\\n"}</tool_response>'
CALL = '<tool_call>\n{"name": "terminal", "arguments": {"command": "ls"}}\n</tool_call>'
CLOSED = f"<think>\n{REASON}\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Probe:
    """A conversation up to an assistant's text `before` + sentinel + `after`, and what follows it.

    A template may refuse a conversation of a named `shape` without losing its bridge.
    """

    name: str
    history: tuple[Message, ...]
    before: str
    after: str
    following_name: str
    following: Following
    shape: str = ""


def user(content: str) -> Message:
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """An assistant message."""
    return {"role": "assistant", "content": content}


def followings(control: Sequence[str]) -> Mapping[str, Following]:
    """What can come after an assistant's text, by name; `control` are the tokenizer's control tokens."""
    return {
        "an observation": (user(OBSERVATION),),
        "two observations in one message": (user(f"{OBSERVATION}\n{OBSERVATION}"),),
        "a real user turn": (user("And now the other one, please."),),
        "an unwrapped repair text": (user("That call is not valid JSON. Write it again."),),
        "a wrapped repair text": (user('<tool_response>{"success": false, "error": "no"}</tool_response>'),),
        "an empty message": (user(""),),
        "a message in white space": (user("\n\n  indented \n\n"),),
        "control tokens spelled out": (user(f"printed: {' '.join(control[:24])} end"),),
        "other scripts": (user("naïve 漢字 🙂 \ufffd ­"),),
        "two messages": (user(OBSERVATION), user("One step is left.")),
    }


TEXTS: Mapping[str, tuple[str, str]] = {
    "plain text": ("", ""),
    "closed reasoning": (CLOSED, ""),
    "open reasoning": (f"<think>\n{REASON} ", ""),
    "the end of a reasoning block": (f"{REASON}\n</think>\n\n", ""),
    "a tool call": ("", f"\n{CALL}"),
    "reasoning and a tool call": (CLOSED, f"\n{CALL}"),
    "a closing tag spelled out": ("</tool_call> is a tag. ", ""),
    "leading white space": ("\n\n  ", ""),
    "trailing white space": ("", " \n\n"),
    "other scripts": ("naïve 漢字 🙂 \ufffd ", " é\ufffd"),
}


def spoken(kind: str) -> str:
    """An assistant's text of that kind of TEXTS."""
    before, after = TEXTS[kind]
    return f"{before}{SENTINELS[0]}{after}"


def probes(control: Sequence[str]) -> Iterator[Probe]:
    """Every probe: two texts in varied histories; then one history and all texts x all followings."""
    named = followings(control)
    for (name, history, shape), following in product(_histories(), CORE_FOLLOWINGS):
        for text in ("plain text", "closed reasoning"):
            full = f"{text} in {name}, then {following}"
            yield Probe(full, history, *TEXTS[text], following, named[following], shape)
    texts = {**TEXTS, "control tokens spelled out": (f"{' '.join(control[:24])} ", "")}
    short = (QUESTION, assistant(CALL), user(OBSERVATION))
    for (text, around), (following, messages) in product(texts.items(), named.items()):
        full = f"{text}, then {following}"
        yield Probe(full, short, *around, following, messages, full)


def _histories() -> Iterator[tuple[str, tuple[Message, ...], str]]:
    styles = {"": "", " with closed reasoning": CLOSED, " with open reasoning": f"<think>\n{REASON} "}
    for turn, results, system in product((1, 2, 5), (0, 1, 2), (False, True)):
        if results >= turn:
            continue
        for style, reasoning in styles.items():
            if style and turn == 1:
                continue
            name = f"turn {turn} with {results} tool results{style}{' and a system prompt' if system else ''}"
            head = (SYSTEM,) if system else ()
            history = (*head, QUESTION, *_exchanges(turn - 1, results, reasoning))
            yield name, history, "a system prompt" if system else ""


def _exchanges(count: int, results: int, reasoning: str) -> Iterator[Message]:
    for index in range(count):
        called = index < results
        yield assistant(reasoning + (CALL if called else f"Answer {index}."))
        yield user(OBSERVATION if called else f"Question {index}?")
