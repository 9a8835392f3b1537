"""What a chat template does that no message asks for, found by rendering small conversations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from atropos_agent.errors import RenderError
from atropos_agent.renderer.close import Close, headers
from atropos_agent.renderer.form import CALL, NOT_SHOWN, CallArguments
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.probes import assistant, call_of, result, user
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import Message, ToolSchema

# An empty system turn holds only its role's name and is not an injected prompt.
ROLE_WORDS = {"system", "developer"}
FIRST, SECOND = SENTINELS


class RoleSupport(StrEnum):
    """How a template treats messages of a role."""

    SHOWN = "shown"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template does that no message asks for, and what it does not take.

    `merged_roles`: consecutive messages of these roles share one turn. `injects_system_prompt`: the template
    writes words of its own before the first message. `reasoning_field`: the key of an assistant message whose
    text is shown as reasoning, empty where there is none. `call_arguments`: how structured calls are taken.
    `shows_tools`: the template argument `tools` is shown.
    """

    writes_bos: bool
    injects_date: bool
    injects_system_prompt: bool
    system_role: RoleSupport
    tool_role: RoleSupport
    alternates_roles: bool
    merged_roles: tuple[str, ...]
    content_as_parts: bool
    generation_prompt: bool
    reasoning_field: str
    call_arguments: CallArguments
    shows_tools: bool

    def __str__(self) -> str:
        """The habits that this template has, in words."""
        said = {
            "writes BOS": self.writes_bos,
            "injects a date": self.injects_date,
            "injects a system prompt": self.injects_system_prompt,
            f"system messages are {self.system_role}": self.system_role is not RoleSupport.SHOWN,
            f"tool messages are {self.tool_role}": self.tool_role is not RoleSupport.SHOWN,
            "roles must alternate": self.alternates_roles,
            f"merges consecutive {' and '.join(self.merged_roles)} messages": bool(self.merged_roles),
            "takes content only as parts": self.content_as_parts,
            "has no generation prompt": not self.generation_prompt,
            f"takes reasoning in {self.reasoning_field!r}": bool(self.reasoning_field),
            f"takes call arguments as {self.call_arguments}": self.call_arguments is not NOT_SHOWN,
            "shows tools": self.shows_tools,
        }
        return "; ".join(words for words, holds in said.items() if holds) or "none"


def find_habits(template: ChatTemplate, tokens: Tokens, close: Close, marks: Marks) -> Habits:
    """Test `template` for each habit. Never raises RenderError: a refused message counts as not shown."""
    call = call_of(marks)
    merged = [role for role in ("user", "tool") if _merges(template, tokens, close, call, role)]
    return Habits(
        writes_bos=bool(template.bos_token) and _shown(template, [QUESTION]).startswith(template.bos_token),
        injects_date=template.reads_clock,
        injects_system_prompt=_injects_system_prompt(template, tokens),
        system_role=_support(template, [{"role": "system", "content": FIRST}, QUESTION]),
        tool_role=_support(template, [QUESTION, assistant(call), result(CALL, FIRST)]),
        alternates_roles=_alternates(template),
        merged_roles=tuple(merged),
        content_as_parts=template.content_as_parts,
        generation_prompt=_shown(template, [QUESTION]) != _shown(template, [QUESTION], prompt=False),
        reasoning_field=template.form.reasoning_field,
        call_arguments=template.form.arguments,
        shows_tools=_shows_tools(template),
    )


def _shown(template: ChatTemplate, messages: Sequence[Message], *, prompt: bool = True) -> str:
    """The rendering; "" where the template refuses the messages."""
    try:
        return template.text(messages, prompt=prompt)
    except RenderError:
        return ""


def _support(template: ChatTemplate, messages: Sequence[Message]) -> RoleSupport:
    rendered = _shown(template, messages)
    if not rendered:
        return RoleSupport.REFUSED
    return RoleSupport.SHOWN if FIRST in rendered else RoleSupport.DROPPED


def _alternates(template: ChatTemplate) -> bool:
    return bool(_shown(template, [QUESTION])) and not _shown(template, [QUESTION, user(FIRST)])


def _injects_system_prompt(template: ChatTemplate, tokens: Tokens) -> bool:
    """True where words stand before the header of a first question; an empty turn does not count."""
    first, later = [tokens.encode(header).tolist() for header in headers(template)]
    while first and later and first[-1] == later[-1]:
        del first[-1], later[-1]
    text = tokens.decode(np.array([token for token in first if token not in tokens.control_ids], np.int32))
    return not ROLE_WORDS.issuperset(re.findall(r"\w+", text))


def _merges(template: ChatTemplate, tokens: Tokens, close: Close, call: str, role: str) -> bool:
    """True where no end of turn, or else no header, stands between two messages of `role`."""
    users, results = [user(FIRST), user(SECOND)], [result(CALL, FIRST), result(CALL, SECOND)]
    pair = users if role == "user" else results
    rendered = _shown(template, [QUESTION, assistant(call), *pair])
    before, first, rest = rendered.partition(FIRST)
    between, second, _ = rest.partition(SECOND)
    if not (first and second):
        return False
    if close.text:
        return close.text.strip() not in between
    header = tokens.encode(before.rpartition(call)[2]).tolist()
    return tokens.special_ids.isdisjoint({*header} & {*tokens.encode(between).tolist()})


def _shows_tools(template: ChatTemplate) -> bool:
    tool = ToolSchema.of(FIRST, "Prints its argument.", {"text": {"type": "string", "description": "any"}})
    return FIRST in _shown(template.with_arguments({"tools": [tool.to_dict()]}), [QUESTION])
