"""Chat completions: the server renders the prompt. Three grades: ids, per-token logprobs, text only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import orjson

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.trajectory import Completion, LogprobMode, LogprobProvenance, Provenance, SamplingParams


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """`POST /v1/chat/completions`. `extended` servers know more than OpenAI's own parameters."""

    model: str
    wire: Wire = Wire.CHAT
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    truncation_shows: bool = False
    extended: bool = True
    alternatives: int = 0
    path = "/v1/chat/completions"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request, with the messages as they are."""
        asked: dict[str, object] = {
            "model": self.model,
            "messages": prompt.messages,
            **common.openai_sampling(sampling, extended=self.extended),
        }
        if sampling.max_tokens is not None:
            asked["max_tokens"] = sampling.max_tokens
        if self.wire.gives_ids:
            asked["logprobs"] = True
            least = 1 if self.wire is Wire.CHAT_LOGPROBS else 0  # llama.cpp gives nothing for 0
            asked["top_logprobs"] = max(self.alternatives, least)
        if self.wire is Wire.CHAT_IDS:
            asked["return_token_ids"] = True
        if self.extended:
            asked["skip_special_tokens"] = False
        return orjson.dumps(asked)

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion; `notes` says where its text or its token entries are second best."""
        choice = common.first_choice(payload)
        text, notes = _text(common.mapping(choice.get("message"), "choices[0].message"))
        prompt_tokens, completion_tokens = common.usage_counts(payload, prompt=None, completion=None)
        plain = Completion(
            text=text,
            finish_reason=common.finish_reason(choice.get("finish_reason"), "choices[0].finish_reason"),
            usage_prompt_tokens=prompt_tokens,
            usage_completion_tokens=completion_tokens,
            sampling=asked.sampling,
            timings=asked.timings,
            model=common.model_of(payload, self.model),
            notes=notes,
        )
        if self.wire is Wire.CHAT_IDS:
            return self._with_ids(plain, choice, payload)
        if self.wire is Wire.CHAT_LOGPROBS:
            return self._from_entries(plain, choice)
        return plain

    def _with_ids(self, plain: Completion, choice: Payload, payload: Payload) -> Completion:
        ids = common.token_ids(choice.get("token_ids"), "choices[0].token_ids")
        prompt = payload.get("prompt_token_ids", choice.get("prompt_token_ids"))
        prompt_ids = common.token_ids(prompt, "prompt_token_ids")
        listed = _logprob_entries(choice)
        common.require_count(len(listed), len(ids), "logprobs", "sampled ids")
        common.usage_counts(payload, prompt=len(prompt_ids), completion=len(ids))
        return replace(
            plain,
            token_ids=ids,
            prompt_token_ids=prompt_ids,
            logprobs=common.logprobs([entry.get("logprob") for entry in listed], "logprobs.content.logprob"),
            provenance=Provenance.SAMPLED,
            logprob_provenance=LogprobProvenance.SAMPLED,
            logprob_mode=common.mode_of(self.logprob_mode, plain.sampling, self.truncation_shows),
        )

    def _from_entries(self, plain: Completion, choice: Payload) -> Completion:
        """Ids or bytes rebuilt from the entries; the plain completion, noted, where they do not add up.

        llama.cpp leaves out entries for broken UTF-8 here, so fewer entries than `usage` counts is no fault.
        """
        listed = _logprob_entries(choice)
        logprobs = common.logprobs([entry.get("logprob") for entry in listed], "logprobs.content.logprob")
        counted = plain.usage_completion_tokens
        if counted is not None and len(listed) > counted:
            raise MalformedReply(f"{len(listed)} logprobs for usage.completion_tokens {counted}")
        pieces = _pieces(listed)
        joined = None if pieces is None else b"".join(pieces).decode(errors="replace")
        if (
            pieces is None
            or not (joined or "").startswith(plain.text)
            or (counted or len(listed)) != len(listed)
        ):
            return replace(plain, notes=(*plain.notes, "token_entries_incomplete"))
        by_id = all(isinstance(entry.get("id"), int) for entry in listed)
        ids = np.array([entry["id"] for entry in listed], np.int32) if by_id else None
        return replace(
            plain,
            token_ids=ids,
            token_bytes=None if by_id else pieces,
            logprobs=logprobs,
            provenance=Provenance.FROM_LOGPROBS,
            logprob_provenance=LogprobProvenance.SAMPLED,
            logprob_mode=common.mode_of(self.logprob_mode, plain.sampling, self.truncation_shows),
        )


def top_logprobs(payload: Payload) -> dict[str, float]:
    """The alternatives at the first sampled position, by token text."""
    listed = _logprob_entries(common.first_choice(payload))
    found: dict[str, float] = {}
    for entry in common.entries(listed[0].get("top_logprobs") if listed else None, "top_logprobs"):
        token, value = entry.get("token"), entry.get("logprob")
        if isinstance(token, str) and isinstance(value, float):
            found[token] = value
    return found


def _text(message: Payload) -> tuple[str, tuple[str, ...]]:
    """The content, or the reasoning where some server put everything there."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content, ()
    for name in ("reasoning", "reasoning_content"):
        reasoning = message.get(name)
        if isinstance(reasoning, str) and reasoning:
            return reasoning, ("text_from_reasoning",)
    if content is None:
        parsed = message.get("tool_calls")
        why = (
            "the server parsed the tool calls itself: start it without a tool-call parser"
            if parsed
            else "null"
        )
        raise MalformedReply(f"choices[0].message.content is missing ({why})")
    return common.string(content, "choices[0].message.content"), ()


def _logprob_entries(choice: Payload) -> list[Payload]:
    found = common.mapping(choice.get("logprobs"), "choices[0].logprobs")
    listed = common.entries(found.get("content"), "choices[0].logprobs.content")
    return [common.mapping(entry, "choices[0].logprobs.content[]") for entry in listed]


def _pieces(listed: list[Payload]) -> tuple[bytes, ...] | None:
    try:
        return tuple(bytes(common.entries(entry.get("bytes"), "bytes")) for entry in listed)  # type: ignore[arg-type]
    except (MalformedReply, TypeError, ValueError):
        return None
