"""Chat completions: the server renders the prompt. Three variants: ids, per-token logprobs, text only.

A server with a reasoning parser or a tool-call parser takes parts of the sampled text out of `content`. They
are in `Completion.reasoning` and `Completion.calls`, as the server parsed them. If the tokens are known,
`text` is all that they spell, including those parts. If only text was returned, `text` is the content alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import orjson

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.policy.wires.messages import Said, outgoing, read_message
from atropos_agent.policy.wires.weight_versions import read_versions
from atropos_agent.trajectory import (
    Completion,
    FinishReason,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    SamplingParams,
)

CALL_REASONS = ("tool_calls", "function_call")
UNPLACED_VERSIONS = "weight_versions_unplaced"
"""Note of a completion with several weight versions, whose tokens the server does not return."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """`POST /v1/chat/completions`. An `extended` server takes more than OpenAI's own parameters."""

    model: str
    wire: Wire = Wire.CHAT
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    truncation_shows: bool = False
    extended: bool = True
    alternatives: int = 0
    path = "/v1/chat/completions"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request, with messages in the form of the OpenAI API; `tools` only if there are any."""
        asked: dict[str, object] = {
            "model": self.model,
            "messages": outgoing(prompt.messages),
            **common.openai_sampling(sampling, extended=self.extended),
        }
        if prompt.tools:
            asked["tools"] = [tool.to_dict() for tool in prompt.tools]
        if sampling.max_tokens is not None:
            asked["max_tokens"] = sampling.max_tokens
        if self.wire.gives_ids:
            asked["logprobs"] = True
            least = 1 if self.wire is Wire.CHAT_LOGPROBS else 0  # llama.cpp returns no logprobs for 0
            asked["top_logprobs"] = max(self.alternatives, least)
        if self.wire is Wire.CHAT_IDS:
            asked["return_token_ids"] = True
        if self.extended:  # by default vLLM strips special tokens, which may mark calls or reasoning
            asked["skip_special_tokens"] = False
        return orjson.dumps(asked, default=dict)

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion; `notes` lists what is incomplete in its text or its token entries."""
        choice = common.first_choice(payload)
        prompt_tokens, completion_tokens = common.usage_counts(payload, prompt=None, completion=None)
        finish = _finish_reason(choice, completion_tokens, asked.sampling)
        said = read_message(common.mapping(choice.get("message"), "choices[0].message"), finish)
        shown = said.with_text()
        plain = Completion(
            text=shown.content,
            finish_reason=finish,
            usage_prompt_tokens=prompt_tokens,
            usage_completion_tokens=completion_tokens,
            sampling=asked.sampling,
            timings=asked.timings,
            model=common.model_of(payload, self.model),
            notes=shown.notes,
            reasoning=shown.reasoning,
            calls=shown.calls,
        )
        if self.wire is Wire.CHAT_IDS:
            return self._with_ids(plain, said, choice, payload)
        versions = read_versions(_versioned(payload), completion_tokens)
        plain = replace(plain, weight_version=versions.last)
        if self.wire is Wire.CHAT_LOGPROBS:
            plain = self._from_entries(plain, said, choice)
        if plain.token_ids is not None or plain.token_bytes is not None:
            return replace(plain, parts=versions.parts)
        return replace(plain, notes=(*plain.notes, UNPLACED_VERSIONS)) if versions.parts else plain

    def _with_ids(self, plain: Completion, said: Said, choice: Payload, payload: Payload) -> Completion:
        ids = common.token_ids(choice.get("token_ids"), "choices[0].token_ids")
        prompt = payload.get("prompt_token_ids", choice.get("prompt_token_ids"))
        prompt_ids = common.token_ids(prompt, "prompt_token_ids")
        listed = _logprob_entries(choice)
        common.require_count(len(listed), len(ids), "logprobs", "sampled ids")
        common.usage_counts(payload, prompt=len(prompt_ids), completion=len(ids))
        versions = read_versions(_versioned(payload), len(ids))
        if said.is_parsed:
            plain = _spelt(plain, said, _pieces(listed))[0]
        return replace(
            plain,
            token_ids=ids,
            weight_version=versions.last,
            parts=versions.parts,
            prompt_token_ids=prompt_ids,
            logprobs=common.logprobs([entry.get("logprob") for entry in listed], "logprobs.content.logprob"),
            provenance=Provenance.SAMPLED,
            logprob_provenance=LogprobProvenance.SAMPLED,
            logprob_mode=common.mode_of(self.logprob_mode, plain.sampling, self.truncation_shows),
        )

    def _from_entries(self, plain: Completion, said: Said, choice: Payload) -> Completion:
        """Ids or bytes rebuilt from the entries; the plain completion with a note if they are incomplete.

        llama.cpp omits the entries of incomplete UTF-8 here, so fewer entries than `usage` counts is legal.
        """
        listed = _logprob_entries(choice)
        logprobs = common.logprobs([entry.get("logprob") for entry in listed], "logprobs.content.logprob")
        counted = plain.usage_completion_tokens
        if counted is not None and len(listed) > counted:
            raise MalformedReply(f"{len(listed)} logprobs for usage.completion_tokens {counted}")
        pieces = _pieces(listed)
        spelt, agrees = _spelt(plain, said, pieces)
        if not agrees or (counted or len(listed)) != len(listed):
            return replace(plain, notes=(*plain.notes, "token_entries_incomplete"))
        # llama.cpp adds the id to each entry; OpenAI's own format has only the bytes
        by_id = all(isinstance(entry.get("id"), int) for entry in listed)
        ids = np.array([entry["id"] for entry in listed], np.int32) if by_id else None
        return replace(
            spelt,
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


def _finish_reason(choice: Payload, sampled: int | None, sampling: SamplingParams) -> FinishReason:
    """Why the completion ended. vLLM reports `tool_calls` also for a completion that was cut after a call, so
    one that fills its limit counts as cut."""
    reason = choice.get("finish_reason")
    finish = common.finish_reason(reason, "choices[0].finish_reason")
    full = sampled is not None and sampled == sampling.max_tokens
    return FinishReason.LENGTH if full and reason in CALL_REASONS else finish


def _versioned(payload: Payload) -> Payload:
    """The object that holds weight versions: `metadata` for SGLang, the answer itself for vLLM."""
    metadata = payload.get("metadata")
    return metadata if isinstance(metadata, dict) and "weight_version" in metadata else payload


def _spelt(plain: Completion, said: Said, pieces: tuple[bytes, ...] | None) -> tuple[Completion, bool]:
    """`plain` with the text of its token entries, and whether they contain all that the server returned.

    If calls or reasoning come after the content, the text keeps the end-of-turn token that the entries spell:
    only a tokenizer can tell that token from the end of a call or of the reasoning.
    """
    if pieces is None:
        return plain, False
    joined = _decoded(pieces)
    if not said.is_parsed:
        return plain, joined.startswith(said.content)
    reasoning, content = said.reasoning.strip(), said.content.strip()
    begin, end = joined.find(reasoning), joined.rfind(content) + len(content)
    in_order = begin >= 0 and begin + len(reasoning) + len(content) <= end
    if not in_order or not all(call.name in joined for call in said.calls):
        return plain, False
    ends_named = (
        plain.finish_reason is FinishReason.STOP and content and not said.calls and pieces[-1].strip()
    )
    if ends_named and end <= len(before := _decoded(pieces[:-1])):
        joined = before
    return replace(plain, text=joined, reasoning=said.reasoning, notes=said.notes), True


def _logprob_entries(choice: Payload) -> list[Payload]:
    found = common.mapping(choice.get("logprobs"), "choices[0].logprobs")
    listed = common.entries(found.get("content"), "choices[0].logprobs.content")
    return [common.mapping(entry, "choices[0].logprobs.content[]") for entry in listed]


def _decoded(pieces: tuple[bytes, ...]) -> str:
    return b"".join(pieces).decode(errors="replace")


def _pieces(listed: list[Payload]) -> tuple[bytes, ...] | None:
    try:
        return tuple(bytes(common.entries(entry.get("bytes"), "bytes")) for entry in listed)  # type: ignore[arg-type]
    except (MalformedReply, TypeError, ValueError):
        return None
