"""The renderer: whole conversations to ids, and the certified bridge from one completion to the next."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from atropos_agent.errors import BridgeMismatch, RenderError
from atropos_agent.renderer.bridge import (
    BRIDGE_MISMATCH,
    REASONING_CLOSED,
    Bridge,
    Continuation,
    Rendered,
)
from atropos_agent.renderer.certificate import Certificate
from atropos_agent.renderer.certified import Certified, certified
from atropos_agent.renderer.form import is_plain
from atropos_agent.renderer.loading import load_tokenizer
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.runtime_check import first_mismatch, holds_at, last_assistant
from atropos_agent.renderer.template import ChatTemplate
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import (
    AssistantMessage,
    FinishReason,
    Json,
    Message,
    TokenIds,
    ToolSchema,
    text_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NO_MARKS = Marks()
OPENINGS_KEPT = 32
"""The rollouts of a group begin with the same text; it is encoded once."""


class Renderer:
    """Messages to exact token ids with one tokenizer and its chat template.

    Immutable, and shareable between rollouts and threads. `marks` are those of the policy's dialect; without
    them nothing opens reasoning, and only the tokenizer's own control tokens are known.
    `template_arguments` are passed to the template unchanged. `stop_ids` are end tokens beside the
    tokenizer's own. `on_mismatch` says what happens when a bridge fails its run-time check. Raises
    RenderError if the tokenizer is not a fast one or has no usable chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        marks: Marks = NO_MARKS,
        template_arguments: Mapping[str, Json] | None = None,
        stop_ids: Iterable[int] = (),
        on_mismatch: Literal["count", "raise"] = "raise",
    ) -> None:
        self._template = ChatTemplate(tokenizer, template_arguments or {})
        self._tokens = Tokens(tokenizer, stop_ids, marks.control_texts)
        self._marks = marks
        self._on_mismatch = on_mismatch
        self._key = self._identity()
        self._server_stop_ids: frozenset[int] = frozenset()
        self._known: Certified | None = None
        self._encoded_once = lru_cache(OPENINGS_KEPT)(self._read_only_ids)

    def _identity(self) -> str:
        ends = map(str, sorted(self._tokens.eos_ids))
        parts = [self._template.digest, self._tokens.digest, *ends, json.dumps(astuple(self._marks))]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        marks: Marks = NO_MARKS,
        chat_template: str | None = None,
        template_arguments: Mapping[str, Json] | None = None,
        on_mismatch: Literal["count", "raise"] = "raise",
    ) -> Renderer:
        """Load tokenizer, chat template and generation config from a folder or a hub name.

        `chat_template` replaces the template that comes with the tokenizer. Raises RenderError if they
        cannot be loaded, e.g. offline.
        """
        tokenizer, stop_ids = load_tokenizer(source)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        return cls(
            tokenizer,
            marks=marks,
            template_arguments=template_arguments,
            stop_ids=stop_ids,
            on_mismatch=on_mismatch,
        )

    def with_stop_ids(self, stop_ids: Iterable[int]) -> Renderer:
        """The same renderer, also counting these ids (a server's own end tokens) as stop ids."""
        other = self._copied()
        other._server_stop_ids = self._server_stop_ids.union(stop_ids)  # noqa: SLF001 - a fresh copy
        return other

    def with_marks(self, marks: Marks) -> Renderer:
        """The same renderer for the dialect of these marks; the object itself if it has them already."""
        if marks == self._marks:
            return self
        other = self._copied()
        other._marks = marks  # noqa: SLF001 - a fresh copy
        other._tokens = self._tokens.with_control_texts(marks.control_texts)  # noqa: SLF001
        other._key = other._identity()  # noqa: SLF001
        return other

    def with_tools(self, schemas: Sequence[ToolSchema]) -> Renderer:
        """The same renderer with these tools as the template argument `tools`; None if there are none."""
        tools: list[Json] = [schema.to_dict() for schema in schemas]
        other = self._copied()
        other._template = self._template.with_arguments({"tools": tools or None})  # noqa: SLF001 - a fresh copy
        other._key = other._identity()  # noqa: SLF001
        return other

    def _copied(self) -> Renderer:
        other = copy.copy(self)
        other._known = None  # noqa: SLF001 - a fresh copy
        return other

    @property
    def marks(self) -> Marks:
        """The marks of the policy's dialect."""
        return self._marks

    @property
    def certificate(self) -> Certificate:
        """What is certified of this template and tokenizer; computed on first use, kept per process."""
        return self._certified.certificate

    @property
    def _certified(self) -> Certified:
        if self._known is None:
            self._known = certified(
                self._template, self._tokens, self._marks, self._key, self._server_stop_ids
            )
        return self._known

    @property
    def opens_reasoning(self) -> bool:
        """True where the generation prompt leaves reasoning open."""
        return self.certificate.opens_reasoning

    @property
    def shows_reasoning(self) -> bool:
        """True where the template shows `reasoning` of assistant messages; elsewhere it is left out."""
        return bool(self._template.form.reasoning_field)

    @property
    def stop_ids(self) -> frozenset[int]:
        """End tokens: of tokenizer, generation config and certified close, and the server's if given."""
        return self._certified.stop_ids

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Every added token that is special or looks like a tag, and the dialect's own; longest first."""
        return self._tokens.control_tokens

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return self._tokens.vocabulary_size

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The whole conversation and the generation prompt.

        Beginning of text is what the template writes; the tokenizer adds none. Raises RenderError with
        the template's own message where it refuses the conversation.
        """
        text = self._template.text(messages)
        return Rendered(self._encoded_once(text), text)

    def text(self, messages: Sequence[Message]) -> str:
        """The whole conversation and the generation prompt, as text. Raises RenderError."""
        return self._template.text(messages)

    def turn_text(self, messages: Sequence[Message], answer: AssistantMessage) -> str | None:
        """What the template writes for `answer` after the prompt of `messages`, without the end of the turn.

        None if it does not show the reasoning of `answer` there, or then shows the prompt differently.
        """
        if not self.shows_reasoning:
            return None
        try:
            prompt = self._template.text(messages)
            whole = self._template.text([*messages, answer], prompt=False)
        except RenderError:
            return None
        if not whole.startswith(prompt):
            return None
        shown, close = whole[len(prompt) :], self.certificate.close_text
        shown = shown.rpartition(close)[0] if close else shown
        return shown if answer.get("reasoning", "") in shown else None

    def _read_only_ids(self, text: str) -> TokenIds:
        ids = self._tokens.encode(text)
        ids.flags.writeable = False
        return ids

    def encode(self, text: str) -> TokenIds:
        """Ids of `text`, int32[n], with no special token added."""
        return self._tokens.encode(text)

    def decode(self, ids: TokenIds) -> str:
        """Text of `ids`: special tokens kept, nothing cleaned up."""
        return self._tokens.decode(ids)

    def decode_completion(self, ids: TokenIds) -> str:
        """Text of a completion, a final stop token cut."""
        ends = len(ids) > 0 and int(ids[-1]) in self.stop_ids
        return self._tokens.decode(ids[:-1] if ends else ids)

    def ids_from_bytes(self, token_bytes: Sequence[bytes]) -> TokenIds | None:
        """The ids int32[n] whose bytes these are; None where any is unknown or ambiguous."""
        return self._tokens.ids_from_bytes(token_bytes)

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id by itself; a special token gives the bytes of its text."""
        return self._tokens.token_bytes(ids)

    def neutralise(self, text: str) -> str:
        """`text` with every control token broken by U+200B, so that it encodes to no control id."""
        return self._tokens.neutralise(text)

    def bridge(
        self,
        messages: Sequence[Message],
        sampled: TokenIds,
        *,
        finish: FinishReason,
        turn: int,
    ) -> Bridge:
        """What must follow `sampled` int32[m] before the next completion can be requested.

        `messages` is the whole conversation; what comes after its last assistant message is new, and
        only that is encoded. Where that message has `tool_calls`, `sampled` is what the template renders
        the message into, and their results come next. The template's own rendering of the opening and the
        last exchanges is compared, of the whole conversation where `turn` is a power of two. Raises
        RenderError where the certificate refuses the bridge, BridgeMismatch where that check fails.
        """
        last, known = last_assistant(messages), self._certified
        answer, following = messages[last], messages[last + 1 :]
        if reason := known.certificate.refusal(answer, following):
            raise RenderError(
                f"no bridge for this chat template: {reason}; agent.history=template does without one"
            )
        suffix = known.turns.after(answer, following)
        held = holds_at(known.turns, messages, suffix, turn=turn)
        notes = [] if held else [self._mismatch(last, suffix)]
        return known.crossing.over(suffix, known.certificate.close_of(answer), sampled, finish, notes)

    def continuation(
        self, shown: str, messages: Sequence[Message], sampled: TokenIds, *, finish: FinishReason
    ) -> Continuation:
        """The template's rendering of `messages`. Their last assistant message is `sampled` int32[m], the
        answer to the prompt that the template rendered as `shown`.

        Renders the whole, encodes only what is new. With a certified bridge the end of the turn is joined
        as in `bridge`; without one the rendering must begin with `shown` and the sampled text as it is.
        Raises RenderError where the template refuses the conversation.
        """
        last = last_assistant(messages)
        answer, following = messages[last], messages[last + 1 :]
        bridge, suffix, crossing = None, "", self._certified.crossing
        if not self.certificate.refusal(answer, following):
            suffix = self._certified.turns.after(answer, following)
            bridge = crossing.over(suffix, self.certificate.close_of(answer), sampled, finish, [])
            closing = REASONING_CLOSED in bridge.notes
        else:
            closing = crossing.is_cut_in_reasoning(sampled, finish)
        close = self._marks.reasoning_close * closing
        shown_answer = (text_of(answer) if is_plain(answer) else self.decode_completion(sampled)) + close
        if closing and is_plain(answer):
            messages = [*messages[:last], {"role": "assistant", "content": shown_answer}, *following]
        text = self._template.text(messages)
        # A rendering that is not what the bridge appends may still extend what was shown and sampled.
        if bridge is None or text != f"{shown}{shown_answer}{suffix}":
            bridge = crossing.added(text, f"{shown}{self.decode(sampled)}", close)
        return Continuation(text, bridge, closing)

    def is_cut_in_reasoning(self, sampled: TokenIds, finish: FinishReason) -> bool:
        """True where `sampled` int32[m] was cut off with its reasoning still open."""
        return self._certified.crossing.is_cut_in_reasoning(sampled, finish)

    def check_bridges(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """Compare every bridge of a finished conversation with the template's rendering of the whole.

        Returns notes to be counted. Raises BridgeMismatch where one differs. For a template that rewrites
        earlier observations only the last bridge is compared.
        """
        certificate = self.certificate
        rewrites = certificate.rewrites_observations
        if any(message["role"] == "tool" for message in messages):
            rewrites |= certificate.tool_bridge.rewrites_results
        missing = first_mismatch(self._certified.turns, messages, earlier=not rewrites)
        return () if missing is None else (self._mismatch(*missing),)

    def _mismatch(self, index: int, suffix: str) -> str:
        if self._on_mismatch == "raise":
            shown = json.dumps(suffix[:60], ensure_ascii=False)
            raise BridgeMismatch(
                f"the chat template does not write {shown} after assistant message {index} of this "
                "conversation; it branches on something no probe holds"
            )
        return BRIDGE_MISMATCH
