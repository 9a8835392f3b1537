"""A chat template compiled once, with every input but the messages frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from jinja2 import Template, TemplateError, TemplateSyntaxError

from atropos_agent.errors import BridgeMismatch, RenderError
from atropos_agent.trajectory import Json, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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
        self._parts = not self._shows_content(parts=False) and self._shows_content(parts=True)

    def text(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """The rendered conversation, with the generation prompt unless `prompt` is False.

        Raises RenderError with the template's own message.
        """
        return self._render(messages, prompt=prompt, parts=self._parts)

    def after_sentinel(
        self, following: Sequence[Message], mark: str = SENTINELS[0], *, prompt: bool = True
    ) -> str:
        """What a short conversation shows after the assistant's text `mark` when `following` comes next."""
        asked: Message = {"role": "assistant", "content": mark}
        rendered = self.text([QUESTION, asked, *following], prompt=prompt)
        start = rendered.find(mark)
        if start < 0:
            raise BridgeMismatch("the chat template drops the assistant's text before these messages")
        return rendered[start + len(mark) :]

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
        compiled: Template = _compile_jinja_template(source)
    except TemplateSyntaxError as error:
        raise RenderError(f"the chat template is not valid Jinja: line {error.lineno}: {error}") from error
    return compiled
