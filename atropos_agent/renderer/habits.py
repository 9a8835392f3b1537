"""What a chat template does of its own accord, found out by rendering small conversations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from atropos_agent.errors import RenderError
from atropos_agent.renderer.close import Close, headers
from atropos_agent.renderer.probes import CALL, REASON, SYSTEM, assistant, user
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate
from atropos_agent.renderer.tokens import Tokens

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
ROLE_WORDS = {"system", "developer"}
FIRST, SECOND = SENTINELS


class RoleSupport(StrEnum):
    """What a template makes of a message of some role."""

    SHOWN = "shown"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template does that no message asks for, and what it does not take.

    `merged_roles`: consecutive messages of these roles share one turn. `injects_system_prompt`: words stand
    before the first message that nobody wrote. `reasoning_field`: the key of an assistant message whose
    text is shown as reasoning, empty where there is none.
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
        }
        return "; ".join(words for words, holds in said.items() if holds) or "none"


def find_habits(template: ChatTemplate, tokens: Tokens, close: Close) -> Habits:
    """Try `template` for each habit. Never raises RenderError: what is refused is not shown."""
    return Habits(
        writes_bos=bool(template.bos_token) and _shown(template, [QUESTION]).startswith(template.bos_token),
        injects_date=template.reads_clock,
        injects_system_prompt=_injects_system_prompt(template, tokens),
        system_role=_support(template, [{**SYSTEM, "content": FIRST}, QUESTION]),
        tool_role=_support(template, [QUESTION, assistant(CALL), _result(FIRST)]),
        alternates_roles=_alternates(template),
        merged_roles=tuple([role for role in ("user", "tool") if _merges(template, tokens, close, role)]),
        content_as_parts=template.content_as_parts,
        generation_prompt=_shown(template, [QUESTION]) != _shown(template, [QUESTION], prompt=False),
        reasoning_field=next((key for key in REASONING_FIELDS if _takes_reasoning(template, key)), ""),
    )


def _shown(template: ChatTemplate, messages: Sequence[Any], *, prompt: bool = True) -> str:
    """The rendering; nothing where the template refuses. Messages may have fields that we never write."""
    try:
        return template.text(messages, prompt=prompt)
    except RenderError:
        return ""


def _result(content: str) -> dict[str, str]:
    return {"role": "tool", "name": "terminal", "tool_call_id": "call00001", "content": content}


def _support(template: ChatTemplate, messages: Sequence[Any]) -> RoleSupport:
    rendered = _shown(template, messages)
    if not rendered:
        return RoleSupport.REFUSED
    return RoleSupport.SHOWN if FIRST in rendered else RoleSupport.DROPPED


def _alternates(template: ChatTemplate) -> bool:
    return bool(_shown(template, [QUESTION])) and not _shown(template, [QUESTION, user(FIRST)])


def _injects_system_prompt(template: ChatTemplate, tokens: Tokens) -> bool:
    """True where words stand before the header of a first question; an empty turn is none."""
    first, later = [tokens.encode(header).tolist() for header in headers(template)]
    while first and later and first[-1] == later[-1]:
        del first[-1], later[-1]
    text = tokens.decode(np.array([token for token in first if token not in tokens.control_ids], np.int32))
    return not ROLE_WORDS.issuperset(re.findall(r"\w+", text))


def _merges(template: ChatTemplate, tokens: Tokens, close: Close, role: str) -> bool:
    """True where no end of turn, or else no header, stands between two messages of `role`."""
    pair = [user(FIRST), user(SECOND)] if role == "user" else [_result(FIRST), _result(SECOND)]
    rendered = _shown(template, [QUESTION, assistant(CALL), *pair])
    before, first, rest = rendered.partition(FIRST)
    between, second, _ = rest.partition(SECOND)
    if not (first and second):
        return False
    if close.text:
        return close.text.strip() not in between
    header = tokens.encode(before.rpartition(CALL)[2]).tolist()
    return tokens.special_ids.isdisjoint({*header} & {*tokens.encode(between).tolist()})


def _takes_reasoning(template: ChatTemplate, key: str) -> bool:
    reasoned: list[Any] = [QUESTION, {**assistant(FIRST), key: REASON}]
    return any(REASON in _shown(template, reasoned, prompt=prompt) for prompt in (True, False))
