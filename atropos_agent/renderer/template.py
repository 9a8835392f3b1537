"""A chat template compiled once, with every input but the messages frozen."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from jinja2 import Template, TemplateError, TemplateSyntaxError

from atropos_agent.errors import BridgeMismatch, RenderError
from atropos_agent.trajectory import Json, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_Judge: TypeAlias = Callable[[object, str, object], bool]
SENTINELS = ("Zq7sentinelKx", "jumps over 3 lazy dogs, e.g.")
QUESTION: Message = {"role": "user", "content": "What is it?"}


class ChatTemplate:
    """Messages to text. Immutable; rendering is safe from any thread.

    The clock that `strftime_now` reads stands still from construction on. Templates that take content
    only as a list of parts are recognised and served. `digest` identifies template and inputs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Json]) -> None:
        source = _source(tokenizer)
        self._template = _compile(source)
        now = datetime.now().astimezone()
        special: Mapping[str, str] = tokenizer.special_tokens_map
        frozen = {**special, **json.loads(json.dumps(dict(arguments)))}
        identity = json.dumps([source, frozen], sort_keys=True, default=str)
        self.digest: str = hashlib.sha256(identity.encode()).hexdigest()
        inputs = {"tools": None, "documents": None, "strftime_now": now.strftime, **frozen}
        self._inputs = {**self._template.globals, **inputs}
        self._kept: dict[object, str] | None = None
        self.bos_token: str = str(special.get("bos_token") or "")
        self.content_as_parts: bool = not self._shows_content(parts=False) and self._shows_content(parts=True)

    def text(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """The rendered conversation, with the generation prompt unless `prompt` is False.

        Raises RenderError with the template's own message.
        """
        if self._kept is None:
            return self._render(messages, prompt=prompt, parts=self.content_as_parts)
        key = prompt, tuple([tuple(message.items()) for message in messages])
        if key not in self._kept:
            self._kept[key] = self._render(messages, prompt=prompt, parts=self.content_as_parts)
        return self._kept[key]

    def remembering(self) -> ChatTemplate:
        """The same template, keeping every rendering: for probes, which share most of their parts."""
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
        """What a prompt adds to a question; nothing where that cannot be shown without one."""
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
            return SENTINELS[0] in self._render([probe], prompt=True, parts=parts)
        except RenderError:
            return False

    def _render(self, messages: Sequence[Message], *, prompt: bool, parts: bool) -> str:
        shown: list[object] = [*messages]
        if parts:
            shown = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        try:
            # Template.render would merge the globals anew, which costs more than rendering a conversation
            inputs = {**self._inputs, "messages": shown, "add_generation_prompt": prompt}
            return "".join(self._template.root_render_func(self._template.new_context(inputs, shared=True)))
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise RenderError(f"the chat template refuses this conversation: {error}") from error


def common_head(texts: Sequence[str]) -> str:
    """The longest text that all of `texts` begin with."""
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


def _compile(source: str) -> Template:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        environment: Any = _compile_jinja_template(source).environment.overlay()
        environment.is_safe_attribute = _decided_once(environment.is_safe_attribute)
        compiled: Template = environment.from_string(source)
    except TemplateSyntaxError as error:
        raise RenderError(f"the chat template is not valid Jinja: line {error.lineno}: {error}") from error
    return compiled


def _decided_once(is_safe: _Judge) -> _Judge:
    """The sandbox's judgement of an attribute, which depends on type and name alone, made once for each:
    made at every access it is what most of rendering a large template costs."""
    known: dict[tuple[type, str], bool] = {}

    def decided(of: object, attribute: str, value: object) -> bool:
        key = type(of), attribute
        if key not in known:
            known[key] = is_safe(of, attribute, value)
        return known[key]

    return decided
