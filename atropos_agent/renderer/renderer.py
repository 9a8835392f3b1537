"""The renderer: whole conversations to ids, and the certified bridge from one completion to the next."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from atropos_agent.errors import BridgeMismatch, RenderError
from atropos_agent.renderer.certificate import Certificate, certify
from atropos_agent.renderer.joint import Suffix, join
from atropos_agent.renderer.runtime_check import first_mismatch, holds_at, last_assistant
from atropos_agent.renderer.template import ChatTemplate
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.trajectory import FinishReason, Json, Message, TokenIds, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BRIDGE_MISMATCH = "bridge_mismatch"
REASONING_CLOSED = "reasoning_closed"
REASONING_CLOSE = "</think>"
NON_CANONICAL_JOINT = "non_canonical_joint"
OPENINGS_KEPT = 32
"""The rollouts of a group begin with the same text; it is encoded once."""
_CERTIFICATES: dict[str, Certificate] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A conversation with its generation prompt: `ids` int32[n], read-only, of `text`."""

    ids: TokenIds
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Bridge:
    """What is appended after the sampled ids, none of it sampled: `ids` int32[n] of `text`.

    The first `close_ids_added` of them end the turn. `notes` are words to be counted: foreign_close,
    unreported_stop, reasoning_closed, non_canonical_joint, bridge_mismatch.
    """

    ids: TokenIds
    text: str
    close_ids_added: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """How the template itself goes on after a completion: `text` is its rendering of the whole.

    `bridge` is what that adds to the last prompt and the sampled ids; None where it rewrites what they
    show. `reasoning_closed`: the completion was cut inside its reasoning, and `text` shows it closed.
    """

    text: str
    bridge: Bridge | None
    reasoning_closed: bool


class Renderer:
    """Messages to exact token ids with one tokenizer and its chat template.

    Immutable, and shareable between rollouts and threads. `stop_ids` are end tokens beside the
    tokenizer's own. `on_mismatch` says what happens when a bridge fails its run-time check. Raises
    RenderError where the tokenizer is not a fast one or has no usable chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        template_arguments: Mapping[str, Json] | None = None,
        stop_ids: Iterable[int] = (),
        on_mismatch: Literal["count", "raise"] = "raise",
    ) -> None:
        self._template = ChatTemplate(tokenizer, template_arguments or {})
        self._tokens = Tokens(tokenizer, stop_ids)
        self._on_mismatch = on_mismatch
        parts = [self._template.digest, self._tokens.digest, *map(str, sorted(self._tokens.eos_ids))]
        self._key = hashlib.sha256(" ".join(parts).encode()).hexdigest()
        self._server_stop_ids: frozenset[int] = frozenset()
        self._reasoning_close = self._tokens.encode(REASONING_CLOSE)
        self._encoded_once = lru_cache(OPENINGS_KEPT)(self._read_only_ids)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        chat_template: str | None = None,
        template_arguments: Mapping[str, Json] | None = None,
        on_mismatch: Literal["count", "raise"] = "raise",
    ) -> Renderer:
        """Load tokenizer, chat template and generation config from a folder or a hub name.

        `chat_template` replaces the template that comes with the tokenizer. Raises RenderError where they
        cannot be had, also offline.
        """
        from transformers import AutoTokenizer

        if (isinstance(source, Path) or source.startswith(("/", "."))) and not Path(source).is_dir():
            raise RenderError(f"no folder {str(source)!r} to load a tokenizer from")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source))
            stop_ids = _generation_stops(str(source))
        except Exception as error:  # the tokenizers library raises it bare for a malformed file
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RenderError(
                f"no tokenizer from {str(source)!r}: {first}; give a folder with tokenizer.json or a hub name"
            ) from error
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        return cls(
            tokenizer, template_arguments=template_arguments, stop_ids=stop_ids, on_mismatch=on_mismatch
        )

    def with_stop_ids(self, stop_ids: Iterable[int]) -> Renderer:
        """The same renderer, also counting these ids (a server's own end tokens) as stop ids."""
        other = copy.copy(self)
        other._server_stop_ids = self._server_stop_ids.union(stop_ids)  # noqa: SLF001 - a fresh copy
        return other

    @property
    def certificate(self) -> Certificate:
        """What is certified of this template and tokenizer; computed on first use, kept per process."""
        known = _CERTIFICATES.get(self._key)
        if known is None:
            known = _CERTIFICATES[self._key] = certify(self._template, self._tokens, self._key)
        return known

    @property
    def opens_reasoning(self) -> bool:
        """True where the generation prompt leaves a <think> open."""
        return self.certificate.opens_reasoning

    @property
    def stop_ids(self) -> frozenset[int]:
        """End tokens: those of tokenizer and generation config, the certified close, a server's if told."""
        return self._tokens.eos_ids | self.certificate.stop_ids | self._server_stop_ids

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Every added token that is special or looks like a tag, and the Hermes tags; longest first."""
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
        """The bytes that each id stands for by itself, special tokens as they are written."""
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
        """What must follow `sampled` int32[m] until the next completion can be asked for.

        `messages` is the whole conversation; what comes after its last assistant message is new, and
        only that is encoded. The template's own rendering of the opening and the last exchanges is
        compared, of the whole conversation where `turn` is a power of two. Raises RenderError where the
        certificate refuses the bridge, BridgeMismatch where that check fails.
        """
        certificate = self.certificate
        if not certificate.bridge:
            raise RenderError(
                f"no bridge for this chat template: {'; '.join(certificate.reasons)}; "
                "agent.history=template does without one"
            )
        last = last_assistant(messages)
        text = self._template.after_sentinel(messages[last + 1 :])
        held = holds_at(self._template, messages, text, turn=turn)
        notes = [] if held else [self._mismatch(last, text)]
        return self._cross(text, sampled, finish, notes)

    def continuation(
        self, shown: str, messages: Sequence[Message], sampled: TokenIds, *, finish: FinishReason
    ) -> Continuation:
        """What the template makes of `messages`, whose last assistant message is `sampled` int32[m], the
        answer to the prompt that it rendered as `shown`.

        Renders the whole, encodes only what is new. With a certified bridge the end of the turn is joined
        as in `bridge`; without one the rendering must begin with `shown` and the sampled text as it is.
        Raises RenderError where the template refuses the conversation.
        """
        last = last_assistant(messages)
        suffix = self._template.after_sentinel(messages[last + 1 :]) if self.certificate.bridge else None
        bridge = None if suffix is None else self._cross(suffix, sampled, finish, [])
        closing = self.is_cut_in_reasoning(sampled, finish) if bridge is None else _closes(bridge)
        told = text_of(messages[last]) + REASONING_CLOSE * closing
        text = self._template.text(
            [*messages[:last], {"role": "assistant", "content": told}, *messages[last + 1 :]]
        )
        if bridge is None or text != f"{shown}{told}{suffix}":
            bridge = self._added(text, f"{shown}{self.decode(sampled)}", closing)
        return Continuation(text, bridge, closing)

    def is_cut_in_reasoning(self, sampled: TokenIds, finish: FinishReason) -> bool:
        """True where `sampled` int32[m] was cut off with its reasoning still open."""
        ended = finish is FinishReason.STOP or not self.stop_ids.isdisjoint(sampled[-1:].tolist())
        return not ended and self._leaves_reasoning_open(sampled)

    def _added(self, text: str, before: str, closing: bool) -> Bridge | None:
        """What `text` adds to `before`, as a bridge; None where it does not begin with it."""
        if not text.startswith(before + REASONING_CLOSE * closing):
            return None
        added = text[len(before) :]
        return Bridge(self._tokens.encode(added), added, 0, (REASONING_CLOSED,) * closing)

    def _cross(self, text: str, sampled: TokenIds, finish: FinishReason, notes: list[str]) -> Bridge:
        """The bridge where the template writes `text` after the assistant's text."""
        certificate = self.certificate
        suffix = Suffix(text, certificate.close_text, self._tokens)
        joint = join(suffix, sampled, finish, tokens=self._tokens, stop_ids=self.stop_ids)
        notes += joint.notes
        ids = self._tokens.encode(text[joint.characters :]) if joint.ids is None else suffix.ids[joint.ids :]
        text = text[joint.characters :]
        close_ids = joint.close_ids
        if finish is not FinishReason.STOP and not joint.closed and self._leaves_reasoning_open(sampled):
            ids = np.concatenate([self._reasoning_close, ids])
            text = f"{REASONING_CLOSE}{text}"
            close_ids += len(self._reasoning_close)
            notes.append(REASONING_CLOSED)
        if certificate.joint == "non-canonical" and not joint.closed:
            notes.append(NON_CANONICAL_JOINT)
        return Bridge(ids, text, close_ids, tuple(notes))

    def check_bridges(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """Compare every bridge of a finished conversation with the template's rendering of the whole.

        Returns the words to be counted. Raises BridgeMismatch where one differs. Templates that rewrite
        earlier observations are held to the last bridge alone.
        """
        earlier = not self.certificate.rewrites_observations
        missing = first_mismatch(self._template, messages, earlier=earlier)
        return () if missing is None else (self._mismatch(*missing),)

    def _mismatch(self, index: int, suffix: str) -> str:
        if self._on_mismatch == "raise":
            shown = json.dumps(suffix[:60], ensure_ascii=False)
            raise BridgeMismatch(
                f"the chat template does not write {shown} after assistant message {index} of this "
                "conversation; it branches on something no probe holds"
            )
        return BRIDGE_MISMATCH

    def _leaves_reasoning_open(self, sampled: TokenIds) -> bool:
        text = self._tokens.decode(sampled)
        opened = text.rfind("<think>")
        closed = text.rfind("</think>")
        return closed < opened if opened >= 0 else self.opens_reasoning and closed < 0


def _closes(bridge: Bridge) -> bool:
    return REASONING_CLOSED in bridge.notes


def _generation_stops(source: str) -> list[int]:
    from transformers.utils.hub import cached_file

    path = cached_file(source, "generation_config.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return []
    ends = json.loads(Path(path).read_bytes()).get("eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
