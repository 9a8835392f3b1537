"""The Hermes dialect: calls, reasoning and results are text between tags, results in a user message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from atropos_agent.dialects.hermes.marks import HERMES_MARKS
from atropos_agent.dialects.hermes.observations import result_to_xml, wrap_observation
from atropos_agent.dialects.hermes.parser import parse
from atropos_agent.dialects.hermes.prompts import system_prompt
from atropos_agent.dialects.hermes.writing import repair_hint, written_call
from atropos_agent.dialects.protocol import Opening, ParsedCompletion
from atropos_agent.renderer import Marks
from atropos_agent.trajectory import (
    Completion,
    FinishReason,
    Message,
    ParseError,
    ParseErrorKind,
    ToolResult,
    ToolSchema,
    UserMessage,
)

CALLS_REJOINED = "calls_rejoined"


@dataclass(frozen=True, slots=True)
class Hermes:
    """Raw text in, raw text out: `<think>`, `<tool_call>{json}</tool_call>`, `<tool_response>`."""

    name: str = "hermes"
    marks: Marks = HERMES_MARKS

    def opening(self, tools: Sequence[ToolSchema]) -> Opening:
        """The built-in system prompt with the definitions of `tools`."""
        return Opening(system_prompt(tools))

    def restored(self, completion: Completion) -> Completion:
        """`completion` with the calls that a server parsed written back as blocks behind its text."""
        if not completion.calls:
            return completion
        blocks = [written_call(call) for call in completion.calls]
        text = "\n".join([part for part in (completion.text, *blocks) if part])
        return replace(completion, text=text, calls=(), notes=(*completion.notes, CALLS_REJOINED))

    def read(self, completion: Completion, *, inside_reasoning: bool) -> ParsedCompletion:
        """Parse the text; reasoning that a server kept apart comes first."""
        apart = completion.reasoning
        parsed = parse(
            completion.text,
            inside_reasoning=inside_reasoning and not apart,
            truncated=completion.finish_reason is FinishReason.LENGTH,
        )
        if not apart:
            return parsed
        return replace(parsed, reasoning="\n".join([part for part in (apart, parsed.reasoning) if part]))

    def answer(
        self,
        results: Sequence[ToolResult],
        errors: Sequence[ParseError],
        *,
        control: Sequence[str],
        message: UserMessage | None = None,
    ) -> tuple[Message, ...]:
        """One user message: a block for each result, a repair hint for calls that could not be parsed, and
        the user's text. A single message, because templates may require that roles alternate."""
        blocks = [result_to_xml(result, control) for result in results]
        unread = any(error.kind is not ParseErrorKind.INSIDE_REASONING for error in errors)
        if message is None and (unread or not blocks):
            blocks.append(wrap_observation({"success": False, "error": repair_hint(errors)}, control))
        if message is None:
            return ({"role": "user", "content": "\n".join(blocks)},)
        return (_preceded(message, blocks),)


def _preceded(message: UserMessage, blocks: Sequence[str]) -> UserMessage:
    """`message` with `blocks` before its content."""
    content = message["content"]
    if not blocks:
        return message
    if isinstance(content, str):
        return {"role": "user", "content": "\n".join([*blocks, content])}
    return {"role": "user", "content": [{"type": "text", "text": "\n".join([*blocks, ""])}, *content]}


HERMES = Hermes()
