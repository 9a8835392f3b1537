"""What a dialect decides: how tools are described, how calls and reasoning are written, results are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from atropos_agent.renderer import Marks
from atropos_agent.trajectory import (
    Completion,
    Json,
    Message,
    ParseError,
    ParseErrorKind,
    ToolCall,
    ToolResult,
    ToolSchema,
    UserMessage,
)


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """What a completion says. `content` is the text outside reasoning and call blocks, stripped; calls and
    errors are in the order of the text; every span is [start, end) in characters of it."""

    reasoning: str
    content: str
    calls: tuple[ToolCall, ...]
    errors: tuple[ParseError, ...]

    @property
    def attempts_call(self) -> bool:
        """True where a text without valid calls was meant as a call, or has nothing outside its reasoning."""
        outside = any(error.kind is not ParseErrorKind.INSIDE_REASONING for error in self.errors)
        return outside or (bool(self.errors) and not self.content.strip())


@dataclass(frozen=True, slots=True)
class Opening:
    """The description of tools for a model: text of a system message, and arguments of its chat template."""

    system: str = ""
    template_arguments: Mapping[str, Json] = field(default_factory=dict[str, Json])


class Dialect(Protocol):
    """One way to write tool calls. Stateless: one object serves all rollouts."""

    @property
    def name(self) -> str:
        """Its name, e.g. `hermes`."""
        ...

    @property
    def marks(self) -> Marks:
        """The reasoning markers and control texts that the renderer must know."""
        ...

    def opening(self, tools: Sequence[ToolSchema]) -> Opening:
        """The description of `tools` for an agent without a system prompt of its own."""
        ...

    def restored(self, completion: Completion) -> Completion:
        """`completion` with calls that a server parsed put back into its text, where this dialect writes
        calls as text. Reasoning stays apart."""
        ...

    def read(self, completion: Completion, *, inside_reasoning: bool) -> ParsedCompletion:
        """What a completion says. Never raises. `inside_reasoning`: the prompt left reasoning open."""
        ...

    def answer(
        self,
        results: Sequence[ToolResult],
        errors: Sequence[ParseError],
        *,
        control: Sequence[str],
        message: UserMessage | None = None,
    ) -> tuple[Message, ...]:
        """The messages that answer a step: results of its calls, errors of calls that could not be parsed,
        and a further turn of the user. Tool output holds no text of `control` literally."""
        ...
