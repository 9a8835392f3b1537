"""A chat template compiled once, with every input but the messages frozen."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from atropos_agent.errors import BridgeMismatch, RenderError
from atropos_agent.renderer.form import Form, fill_in, find_form, is_plain, plain_json
from atropos_agent.renderer.jinja import compile_template
from atropos_agent.trajectory import Json, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SENTINELS = ("Zq7sentinelKx", "jumps over 3 lazy dogs, e.g.")
QUESTION: Message = {"role": "user", "content": "What is it?"}


class ChatTemplate:
    """Messages to text. Immutable; rendering is safe from any thread.

    `strftime_now` always gives the time of construction. `content_as_parts`: the template takes content only
    as a list of parts. `digest` identifies template and inputs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Json]) -> None:
        self._source = _source(tokenizer)
        self._template = compile_template(self._source)
        self._kept: dict[object, str] | None = None
        special: Mapping[str, str] = tokenizer.special_tokens_map
        self.bos_token: str = str(special.get("bos_token") or "")
        self._special = special
        # One fixed time: a date that changes at midnight would rewrite the history of running rollouts.
        self._clock = datetime.now().astimezone().strftime
        self._freeze(arguments)
        self.content_as_parts: bool = not self._shows_content(parts=False) and self._shows_content(parts=True)
        self._plain_form = Form(self.content_as_parts)

    def _freeze(self, arguments: Mapping[str, Json]) -> None:
        # A deep copy: a later change by the caller must not reach the template.
        self._arguments: Mapping[str, Json] = json.loads(json.dumps(plain_json(arguments)))
        given = {**self._special, **self._arguments}
        identity = json.dumps([self._source, given], sort_keys=True, default=str)
        self.digest: str = hashlib.sha256(identity.encode()).hexdigest()
        defaults = {"tools": None, "documents": None, "strftime_now": self._clock}
        self._inputs: Mapping[str, object] = {**self._template.globals, **defaults, **given}

    def with_arguments(self, arguments: Mapping[str, Json]) -> ChatTemplate:
        """The same template and clock with these arguments added to the present ones."""
        other = copy.copy(self)
        for derived in ("form", "generation_prompt"):
            other.__dict__.pop(derived, None)
        other._kept = None if self._kept is None else {}  # noqa: SLF001 - a fresh copy
        other._freeze({**self._arguments, **arguments})  # noqa: SLF001 - a fresh copy
        return other

    @cached_property
    def form(self) -> Form:
        """How messages with calls, reasoning or parts go into this template."""
        return find_form(self._rendered, parts=self.content_as_parts)

    def text(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """The rendered conversation, with the generation prompt unless `prompt` is False.

        Raises RenderError with the template's own message, and for a message that cannot be shown.
        """
        if self._kept is None:
            return self._rendered(self._filled_in(messages), prompt=prompt)
        key = prompt, repr([*messages])
        if key not in self._kept:
            self._kept[key] = self._rendered(self._filled_in(messages), prompt=prompt)
        return self._kept[key]

    def _filled_in(self, messages: Sequence[Message]) -> Sequence[Mapping[str, object]]:
        """`messages` themselves where the template takes them as they are: the hot path copies nothing."""
        if not self.content_as_parts and all(map(is_plain, messages)):
            return messages
        return [fill_in(message, at, self._form_for(message)) for at, message in enumerate(messages)]

    def _form_for(self, message: Message) -> Form:
        return self._plain_form if is_plain(message) else self.form

    def remembering(self) -> ChatTemplate:
        """The same template with a cache of all renderings: probes share most of their conversations."""
        other = copy.copy(self)
        other._kept = {}  # noqa: SLF001 - a fresh copy
        return other

    def after_sentinel(self, following: Sequence[Message], mark: str = SENTINELS[0]) -> str:
        """What a short conversation shows after the assistant's text `mark` when `following` comes next."""
        rendered = self.text([QUESTION, {"role": "assistant", "content": mark}, *following])
        start = rendered.find(mark)
        if start < 0:
            raise BridgeMismatch("the chat template drops the assistant's text before these messages")
        return rendered[start + len(mark) :]

    def settled(self, messages: Sequence[Message]) -> str:
        """What the rendering shows of `messages` whether or not a prompt follows them."""
        return common_head([self.text(messages), self.text(messages, prompt=False)])

    @cached_property
    def generation_prompt(self) -> str:
        """What a generation prompt adds to a question; "" where the template refuses one of the two."""
        try:
            return self.text([QUESTION])[len(self.settled([QUESTION])) :]
        except RenderError:
            return ""

    @property
    def reads_clock(self) -> bool:
        """True where the rendering depends on when this object was made."""
        later = copy.copy(self)
        moved = datetime.now().astimezone() + timedelta(days=400, hours=1, minutes=1, seconds=1)
        later._kept = None  # noqa: SLF001 - a fresh copy
        later._inputs = {**self._inputs, "strftime_now": moved.strftime}  # noqa: SLF001 - a fresh copy
        try:
            return later.text([QUESTION]) != self.text([QUESTION])
        except RenderError:
            return False

    def _shows_content(self, *, parts: bool) -> bool:
        probe: Message = {"role": "user", "content": SENTINELS[0]}
        try:
            return SENTINELS[0] in self._rendered([fill_in(probe, 0, Form(parts))])
        except RenderError:
            return False

    def _rendered(self, messages: Sequence[Mapping[str, object]], *, prompt: bool = True) -> str:
        try:
            # Not Template.render: it merges the globals again, which costs more than the rendering.
            inputs = {**self._inputs, "messages": messages, "add_generation_prompt": prompt}
            return "".join(self._template.root_render_func(self._template.new_context(inputs, shared=True)))
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise RenderError(f"the chat template refuses this conversation: {error}") from error


def common_head(texts: Sequence[str]) -> str:
    """The longest text that all of `texts` begin with."""
    # The first and the last in sort order differ earliest: what these two share, all share.
    first, last = min(texts), max(texts)
    size = next((at for at, char in enumerate(first) if char != last[at]), len(first))
    return first[:size]


def _source(tokenizer: PreTrainedTokenizerFast) -> str:
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise RenderError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template"
        ) from error
    return str(template)
