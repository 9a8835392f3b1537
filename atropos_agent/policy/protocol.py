"""The Policy protocol: one completion for a prompt. Does not know agents, parsers or tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import orjson

from atropos_agent.trajectory import (
    Completion,
    LogprobMode,
    Logprobs,
    Message,
    SamplingParams,
    TokenIds,
    ToolSchema,
)


class Wire(StrEnum):
    """The request format of a policy, best first. `takes_*` is what it sends, `gives_*` what it returns."""

    IN_PROCESS = "in-process"
    LLAMA_CPP = "llama.cpp"
    SGLANG = "sglang"
    VLLM = "vllm"
    VLLM_GENERATE = "vllm-generate"
    CHAT_IDS = "chat+ids"
    CHAT_LOGPROBS = "chat+logprobs"
    TEXT = "text"
    CHAT = "chat"

    @property
    def takes_ids(self) -> bool:
        """True if the prompt is sent as token ids (tier 1: token in, token out)."""
        return self in (Wire.IN_PROCESS, Wire.LLAMA_CPP, Wire.SGLANG, Wire.VLLM, Wire.VLLM_GENERATE)

    @property
    def takes_text(self) -> bool:
        """True if the prompt is sent as the text that our renderer made."""
        return self is Wire.TEXT

    @property
    def gives_ids(self) -> bool:
        """True if sampled ids are returned, or can be rebuilt from per-token entries."""
        return self.takes_ids or self in (Wire.CHAT_IDS, Wire.CHAT_LOGPROBS)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do, as probed. `context_length` in tokens, None if unknown; `models` are all the
    models that it lists."""

    wire: Wire
    model: str
    server: str
    context_length: int | None = None
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    stop_ids: tuple[int, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a completion that is still being sampled; either field may be empty."""

    text: str = ""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The origin of a request, for replica affinity, logs and saved requests. Steps count from 1.

    `on_delta` is reserved for policies that stream: they will call it with each piece, in order, before
    `complete` returns. The policies of this package do not call it.
    """

    rollout_id: str = ""
    step_number: int = 1
    on_delta: Callable[[Delta], None] | None = None


ANONYMOUS = RequestInfo()
SESSION_HEADER = "X-Session-ID"
"""Carries the rollout id, percent-encoded: header values are ASCII on one line."""


Decode: TypeAlias = Callable[[TokenIds], str]


class Prompt:
    """A growing conversation in every form that a request may need: messages, text, ids, encoded ids.

    The ids are also kept as JSON text, so that the cost of a turn is only that of its new tokens. `tools` are
    sent with the messages; they are set only for servers that render and parse calls themselves.
    """

    __slots__ = ("_encoded", "_ids", "_length", "_text", "messages", "tools")

    def __init__(self, messages: Sequence[Message] = (), tools: Sequence[ToolSchema] = ()) -> None:
        self.messages: list[Message] = list(messages)
        self.tools: Sequence[ToolSchema] = tools
        self._ids: TokenIds = np.empty(256, np.int32)
        self._length = 0
        self._encoded = bytearray()
        self._text: list[str | tuple[Decode, TokenIds]] = []

    def __len__(self) -> int:
        """Tokens so far; 0 if the conversation is kept without ids."""
        return self._length

    def extend(self, ids: TokenIds, text: str | Decode = "") -> None:
        """Append `ids` int32[n] and their text, or a function that decodes them when the text is needed."""
        if text:
            self._text.append(text if isinstance(text, str) else (text, ids))
        if not len(ids):
            return
        end = self._length + len(ids)
        if end > len(self._ids):
            # doubled, so that all turns together copy each id a constant number of times
            grown = np.empty(max(end, 2 * len(self._ids)), np.int32)
            grown[: self._length] = self._ids[: self._length]
            self._ids = grown
        self._ids[self._length : end] = ids
        if self._encoded:
            self._encoded += b","
        contiguous = np.ascontiguousarray(ids, np.int32)
        self._encoded += orjson.dumps(contiguous, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        self._length = end

    @property
    def ids(self) -> TokenIds:
        """All ids, int32[len(self)]; a read-only view that a later `extend` may detach."""
        view = self._ids[: self._length]
        view.flags.writeable = False
        return view

    @property
    def encoded_ids(self) -> bytes:
        """The ids as JSON without the brackets, e.g. b"1,2,3"."""
        return bytes(self._encoded)

    @property
    def text(self) -> str:
        """The rendered text so far."""
        text = "".join([part if isinstance(part, str) else part[0](part[1]) for part in self._text])
        self._text = [text]  # so that the next call joins only what is new
        return text


@runtime_checkable
class Policy(Protocol):
    """A source of completions. The environment or the caller owns it; probed once."""

    async def probe(self) -> Capabilities:
        """Probe what the server can do; cached. Raises ProviderError."""
        ...

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """One completion (n is always 1). Raises ProviderError; never pads or invents anything."""
        ...

    async def aclose(self) -> None:
        """Release connections and processes. Idempotent."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A policy whose server returns the logprobs of given tokens."""

    async def score(self, ids: TokenIds) -> Logprobs:
        """float32[n]: the model's own log-probability of each id of int32[n] given those before it; NaN for
        the first. Raises ProviderError if the server gives none."""
        ...
