"""How a chat template writes tool messages, tested on probes of their own.

After structured calls, the sampled text is the template's rendering of the message. The bridge then begins
after the calls, with the end of their turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from atropos_agent.errors import RenderError
from atropos_agent.renderer.close import CallsEnd, find_calls_end
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.probes import REASON, SYSTEM, assistant, call_of, result, texts, user
from atropos_agent.renderer.runtime_check import exchanges_of, first_missing
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.renderer.turns import Turns, calls_of, marked
from atropos_agent.trajectory import AssistantMessage, Message, MessageCall, text_of

AFTER_TEXT, AFTER_CALLS = "after text", "after calls"
RESULT = "a.txt 12 bytes"
CALLS: tuple[MessageCall, ...] = tuple(
    {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": {}}}
    for number, name in enumerate(("terminal", "read_file", "terminal"), 1)
)


@dataclass(frozen=True, slots=True)
class ToolBridge:
    """Where tool messages may be appended to an assistant's turn.

    - `after_text`: after raw text, what the template writes does not depend on that text or on history.
    - `after_calls`: after structured calls, what it writes behind them does not depend on content,
      reasoning, arguments or history.
    - `calls_end`: what a turn of calls ends with, the head of what follows it; empty without `after_calls`.
    - `calls_close`: `calls_end` where it closes the turn; empty where the next header ends the turn.
    - `rewrites_results`: the template later changes earlier results.
    - `reasons`: every refusal.
    """

    after_text: bool
    after_calls: bool
    calls_end: str = ""
    calls_close: str = ""
    rewrites_results: bool = False
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What is certified, in words."""
        said = {"after text": self.after_text, f"after calls up to {self.calls_end!r}": self.after_calls}
        return " and ".join(words for words, holds in said.items() if holds) or "none"


@dataclass(frozen=True, slots=True)
class ToolProbe:
    """A conversation in which tool messages follow `answer`. A template may refuse one of a named `shape`."""

    name: str
    history: tuple[Message, ...]
    answer: Message
    following: tuple[Message, ...]
    shape: str = ""


@dataclass(slots=True)
class _Tried:
    """The findings of the probes so far."""

    reasons: list[str] = field(default_factory=list[str])
    rewrites: bool = False


def find_tool_bridge(template: ChatTemplate, tokens: Tokens, close_text: str, marks: Marks) -> ToolBridge:
    """Test tool messages after text and after calls. Never raises RenderError: a failure becomes a reason."""
    text, calls, end = _Tried(), _Tried(), CallsEnd()
    _try_all(Turns(template, marks), _text_probes(marks), text)
    try:
        end = find_calls_end(template, tokens, close_text, _calling(1), result(CALLS[0], RESULT))
    except RenderError as error:
        calls.reasons.append(f"{AFTER_CALLS}: {error}")
    else:
        _try_all(Turns(template, marks, end.text), _call_probes(template), calls)
    certified = not calls.reasons
    return ToolBridge(
        after_text=not text.reasons,
        after_calls=certified,
        calls_end=end.text if certified else "",
        calls_close=end.text if certified and end.closes else "",
        rewrites_results=text.rewrites or calls.rewrites,
        reasons=(*text.reasons, *calls.reasons),
    )


def _text_probes(marks: Marks) -> Iterator[ToolProbe]:
    """Every kind of text before one result; plain text in varied histories and before varied results."""
    exchange = (assistant(call_of(marks)), result(CALLS[0], RESULT))
    for kind, (before, after) in texts(marks).items():
        answer = assistant(f"{before}{SENTINELS[0]}{after}")
        yield ToolProbe(kind, (QUESTION,), answer, (result(CALLS[0], RESULT),))
    for name, history, shape in _histories(exchange):
        yield ToolProbe(name, history, assistant(SENTINELS[0]), (result(CALLS[0], RESULT),), shape)
    for name, following, shape in _followings():
        yield ToolProbe(name, (QUESTION, *exchange), assistant(SENTINELS[0]), following, shape)


def _call_probes(template: ChatTemplate) -> Iterator[ToolProbe]:
    """Every kind of answer before its results; one call in varied histories and before varied results."""
    one = _calling(1)
    earlier: Message = {"role": "assistant", "content": "", "tool_calls": marked(CALLS[:1], "ls")}
    exchange = (earlier, result(CALLS[0], RESULT))
    for count in (1, 2, 3):
        results = tuple([result(call, RESULT) for call in CALLS[:count]])
        name = f"{count} calls" if count > 1 else "one call"
        yield ToolProbe(name, (QUESTION,), _calling(count), results, name if count > 1 else "")
    reasoning = REASON if template.form.reasoning_field else ""
    for said, thought in product(("", "I look.\n"), ("", reasoning)):
        shape = "content and reasoning beside a call" if said and thought else ""
        yield ToolProbe(
            f"a call with content {said!r} and reasoning {thought!r}",
            (QUESTION, *exchange),
            _calling(1, said, thought),
            (result(CALLS[0], RESULT),),
            shape,
        )
    for name, history, shape in _histories(exchange):
        yield ToolProbe(name, history, one, (result(CALLS[0], RESULT),), shape)
    for name, following, shape in _followings():
        yield ToolProbe(name, (QUESTION, *exchange), one, following, shape)


def _calling(count: int, content: str = "", reasoning: str = "") -> Message:
    """An assistant message with `count` calls, the first sentinel in the arguments of the last."""
    called: AssistantMessage = {"role": "assistant", "content": content, "tool_calls": marked(CALLS[:count])}
    if reasoning:
        called["reasoning"] = reasoning
    return called


def _histories(exchange: tuple[Message, ...]) -> Iterator[tuple[str, tuple[Message, ...], str]]:
    """Name, messages and, where a template may refuse it, the shape of the history."""
    plain = (assistant("It is here."), user("And then?"))
    yield "turn 2 behind a call", (QUESTION, *exchange), ""
    yield "turn 2 behind an answer", (QUESTION, *plain), ""
    yield "turn 4 behind calls", (QUESTION, *exchange, *exchange, *exchange), ""
    yield "turn 5 behind calls and an answer", (QUESTION, *exchange, *plain, *exchange), ""
    yield "a system prompt", (SYSTEM, QUESTION, *exchange), "a system prompt"


def _followings() -> Iterator[tuple[str, tuple[Message, ...], str]]:
    """Name, messages and, where a template may refuse it, the shape of what follows a call."""
    contents = {
        "a result in white space": "\n\n  indented \n\n",
        "a result in JSON": '{"success": true, "output": "naïve 漢字 🙂"}',
        "an empty result": "",
    }
    for name, content in contents.items():
        yield name, (result(CALLS[0], content),), ""
    shape = "a result and a user message"
    yield shape, (result(CALLS[0], RESULT), user("One step is left.")), shape


def _try_all(turns: Turns, probes: Iterator[ToolProbe], tried: _Tried) -> None:
    for probe in probes:
        try:
            found = _refusal(turns, probe)
        except RenderError as error:
            found = "" if probe.shape else str(error)
        else:
            tried.rewrites |= not found and _rewrites(turns, probe)
        if found:
            kind = AFTER_CALLS if calls_of(probe.answer) else AFTER_TEXT
            tried.reasons.append(f"{kind}: {probe.name}: {found}")


def _refusal(turns: Turns, probe: ToolProbe) -> str:
    """Why what follows `probe.answer` is not certified, empty where it is. Raises RenderError."""
    suffix = turns.after(probe.answer, probe.following)
    if any(text_of(message) not in suffix for message in probe.following if text_of(message) == RESULT):
        return "the result is not shown"
    for mark in SENTINELS:
        answer = _with_mark(probe.answer, mark)
        rendered = turns.template.text([*probe.history, answer, *probe.following])
        if calls_of(answer):
            same = turns.behind_calls(rendered, mark) == suffix
        else:
            after = text_of(answer).partition(mark)[2]
            same = rendered.partition(mark)[2] in (after + suffix, after.rstrip() + suffix)
        if not same:
            return "what follows depends on the turn or on history"
    return ""


def _with_mark(answer: Message, mark: str) -> Message:
    """`answer` with this sentinel in place of the first."""
    if answer["role"] != "assistant":
        return answer
    if calls := calls_of(answer):
        return {**answer, "tool_calls": marked(calls, mark)}
    return {**answer, "content": text_of(answer).replace(SENTINELS[0], mark)}


def _rewrites(turns: Turns, probe: ToolProbe) -> bool:
    rendered = turns.template.text([*probe.history, probe.answer, *probe.following])
    return first_missing(turns, rendered, probe.history, exchanges_of(probe.history)) is not None
