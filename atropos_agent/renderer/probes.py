"""The probe conversations on which a chat template is tested before it is used. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.template import QUESTION, SENTINELS
from atropos_agent.trajectory import Message, MessageCall

Following: TypeAlias = tuple[Message, ...]

OBSERVED = "an observation"
CORE_FOLLOWINGS = (OBSERVED, "a real user turn", "an unwrapped repair text")
REASON = "weigh both options"
PLAIN_CALL = "I list the files."
PLAIN_OBSERVATION = "a.txt and b.txt"
SYSTEM: Message = {"role": "system", "content": "You use tools."}


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


def result(call: MessageCall, content: str) -> Message:
    """A tool message that answers `call`."""
    return {"role": "tool", "name": call["function"]["name"], "tool_call_id": call["id"], "content": content}


def closed_reasoning(marks: Marks) -> str:
    """A whole reasoning block; nothing where the dialect has no reasoning markers."""
    return f"{marks.reasoning_open}\n{REASON}\n{marks.reasoning_close}\n\n" if marks.reasoning_open else ""


def open_reasoning(marks: Marks) -> str:
    """A reasoning block without its end; nothing where the dialect has no reasoning markers."""
    return f"{marks.reasoning_open}\n{REASON} " if marks.reasoning_open else ""


def call_of(marks: Marks) -> str:
    """A call as the dialect writes it, or a text in its place."""
    return marks.call or PLAIN_CALL


def observation_of(marks: Marks) -> str:
    """A result as the dialect writes it, or a text in its place."""
    return marks.observation or PLAIN_OBSERVATION


def followings(control: Sequence[str], marks: Marks) -> Mapping[str, Following]:
    """What can come after an assistant's text, by name; `control` are the renderer's control tokens."""
    observation = observation_of(marks)
    wrapped = {"a wrapped repair text": (user(marks.repair),)} if marks.repair else {}
    # The first 24 control tokens only: some tokenizers have hundreds.
    return {
        OBSERVED: (user(observation),),
        "two observations in one message": (user(f"{observation}\n{observation}"),),
        "a real user turn": (user("And now the other one, please."),),
        "an unwrapped repair text": (user("That call is not valid JSON. Write it again."),),
        **wrapped,
        "an empty message": (user(""),),
        "a message in white space": (user("\n\n  indented \n\n"),),
        "control tokens spelled out": (user(f"printed: {' '.join(control[:24])} end"),),
        "other scripts": (user("naïve 漢字 🙂 \ufffd ­"),),
        "two messages": (user(observation), user("One step is left.")),
    }


def texts(marks: Marks) -> Mapping[str, tuple[str, str]]:
    """Kinds of an assistant's text that the dialect can write: what stands before and after a sentinel."""
    closed = closed_reasoning(marks)
    found = {"plain text": ("", "")}
    if closed:
        found["closed reasoning"] = closed, ""
        found["open reasoning"] = open_reasoning(marks), ""
        found["the end of a reasoning block"] = f"{REASON}\n{marks.reasoning_close}\n\n", ""
    if marks.call:
        found["a tool call"] = "", f"\n{marks.call}"
    if closed and marks.call:
        found["reasoning and a tool call"] = closed, f"\n{marks.call}"
    if marks.call_close:
        found["a closing tag spelled out"] = f"{marks.call_close} is a tag. ", ""
    found["leading white space"] = "\n\n  ", ""
    found["trailing white space"] = "", " \n\n"
    found["other scripts"] = "naïve 漢字 🙂 \ufffd ", " é\ufffd"
    return found


def spoken(around: tuple[str, str]) -> str:
    """The assistant's text with the first sentinel between these two."""
    before, after = around
    return f"{before}{SENTINELS[0]}{after}"


def probes(control: Sequence[str], marks: Marks) -> Iterator[Probe]:
    """Every probe: two texts in varied histories; then one history and all texts x all followings."""
    named, kinds = followings(control, marks), texts(marks)
    usual = [kind for kind in ("plain text", "closed reasoning") if kind in kinds]
    for (name, history, shape), following in product(_histories(marks), CORE_FOLLOWINGS):
        for text in usual:
            full = f"{text} in {name}, then {following}"
            yield Probe(full, history, *kinds[text], following, named[following], shape)
    varied = {**kinds, "control tokens spelled out": (f"{' '.join(control[:24])} ", "")}
    short = (QUESTION, assistant(call_of(marks)), user(observation_of(marks)))
    for (text, around), (following, messages) in product(varied.items(), named.items()):
        full = f"{text}, then {following}"
        yield Probe(full, short, *around, following, messages, full)


def _histories(marks: Marks) -> Iterator[tuple[str, tuple[Message, ...], str]]:
    styles = {"": ""}
    if marks.reasoning_open:
        styles[" with closed reasoning"] = closed_reasoning(marks)
        styles[" with open reasoning"] = open_reasoning(marks)
    for turn, results, system in product((1, 2, 5), (0, 1, 2), (False, True)):
        if results >= turn:
            continue
        for style, reasoning in styles.items():
            if style and turn == 1:
                continue
            name = f"turn {turn} with {results} tool results{style}{' and a system prompt' if system else ''}"
            head = (SYSTEM,) if system else ()
            history = (*head, QUESTION, *_exchanges(turn - 1, results, reasoning, marks))
            yield name, history, "a system prompt" if system else ""


def _exchanges(count: int, results: int, reasoning: str, marks: Marks) -> Iterator[Message]:
    for index in range(count):
        called = index < results
        yield assistant(reasoning + (call_of(marks) if called else f"Answer {index}."))
        yield user(observation_of(marks) if called else f"Question {index}?")
