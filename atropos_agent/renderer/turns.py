"""What a template writes after an assistant's turn of raw text or of structured calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atropos_agent.errors import BridgeMismatch
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate
from atropos_agent.trajectory import Message, MessageCall, text_of

ARGUMENT = "command"
"""The argument that holds the sentinel."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Assistant turns as `template` writes them.

    Structured calls are rendered into text that the policy sampled. What follows the turn therefore begins
    after them, with `calls_end`, the end of such a turn; empty where none is certified.
    """

    template: ChatTemplate
    marks: Marks
    calls_end: str = ""

    def after(self, answer: Message, following: Sequence[Message]) -> str:
        """What a short conversation shows after the turn `answer` when `following` comes next.

        The text and the arguments of `answer` are replaced; the names and ids of its calls are kept, because
        results refer to them. Raises RenderError.
        """
        calls = calls_of(answer)
        if not calls:
            return self.template.after_sentinel(following)
        short: Message = {"role": "assistant", "content": "", "tool_calls": marked(calls)}
        return self.behind_calls(self.template.text([QUESTION, short, *following]))

    def after_marked(self, messages: Sequence[Message], last: int) -> str:
        """What the conversation shows after assistant message number `last`, found by a sentinel at the end
        of its text or in its last call. Raises RenderError."""
        answer, mark = messages[last], SENTINELS[0]
        if answer["role"] != "assistant":
            raise BridgeMismatch(f"message {last} is of role {answer['role']!r}, not assistant")
        if calls := calls_of(answer):
            called: Message = {**answer, "tool_calls": [*calls[:-1], *marked(calls[-1:])]}
            return self.behind_calls(self.template.text([*messages[:last], called, *messages[last + 1 :]]))
        said: Message = {**answer, "content": text_of(answer) + mark}
        return self.template.text([*messages[:last], said, *messages[last + 1 :]]).partition(mark)[2]

    def behind_calls(self, rendered: str, mark: str = SENTINELS[0]) -> str:
        """The rest of `rendered` from the end of the turn whose last call holds `mark`. Raises
        BridgeMismatch."""
        _, found, rest = rendered.partition(mark)
        at = rest.find(self.calls_end)
        if not found or mark in rest or at < 0:
            raise BridgeMismatch("the chat template does not show these calls once, followed by their end")
        return rest[at:]

    def answer_of(self, message: Message) -> str:
        """The text of a message without its reasoning."""
        return self.marks.after_reasoning(text_of(message))


def calls_of(message: Message) -> Sequence[MessageCall]:
    """The structured calls of a message; none for other roles than assistant."""
    return message.get("tool_calls", ()) if message["role"] == "assistant" else ()


def marked(calls: Sequence[MessageCall], mark: str = SENTINELS[0]) -> list[MessageCall]:
    """These calls with the same ids and names, and `mark` as the one argument of the last."""
    texts = ["ls"] * (len(calls) - 1) + [mark]
    return [
        {**call, "function": {"name": call["function"]["name"], "arguments": {ARGUMENT: text}}}
        for call, text in zip(calls, texts, strict=True)
    ]
