"""A scripted policy: texts in, exact ids and logprobs out, no server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from atropos_agent.policy.protocol import ANONYMOUS, Capabilities, Prompt, RequestInfo, Wire
from atropos_agent.policy.wires.messages import Said, read_message
from atropos_agent.policy.wires.weight_versions import read_versions
from atropos_agent.testing.codecs import ByteCodec, Codec, Ids
from atropos_agent.trajectory import (
    Completion,
    FinishReason,
    Json,
    LogprobMode,
    LogprobProvenance,
    Logprobs,
    Message,
    Provenance,
    SamplingParams,
    Timings,
    TokenIds,
)


@dataclass(frozen=True, slots=True)
class FakeReply:
    """One scripted completion. `token_ids` overrides the encoding of `text` (stop token included).

    `message` is the form in which a chat server with parsers returns `text`: fields such as `content`,
    `reasoning_content` and `tool_calls`. It is ignored if `max_tokens` cuts the text. `weight_versions` maps
    each weight version to the index of the first token that it sampled, in ascending order from 0.
    """

    text: str = ""
    finish_reason: FinishReason = FinishReason.STOP
    token_ids: Ids | None = None
    logprobs: Sequence[float] | None = None
    delay_s: float = 0.0
    message: Mapping[str, Json] | None = None
    weight_versions: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, eq=False)
class FakeRequest:
    """The arguments of one call of `complete`."""

    prompt_ids: TokenIds
    messages: tuple[Message, ...]
    sampling: SamplingParams
    request: RequestInfo


Script: TypeAlias = "str | FakeReply | Exception"
Scripts: TypeAlias = "Sequence[Script] | Callable[[Sequence[Message], int], Script]"


def fake_logprobs(ids: TokenIds) -> Logprobs:
    """Deterministic logprobs float32[n], each in [-1.97, -0.01], a function of the id alone."""
    return (-0.01 - (ids % 50) / 25).astype(np.float32)


def version_spans(versions: Mapping[str, int], count: int) -> list[dict[str, object]]:
    """`versions` of `count` sampled tokens, in the form that vLLM and SGLang report."""
    begun = {name: start for name, start in versions.items() if start < count or not start}
    ends = [*begun.values(), count][1:]
    spans = zip(begun.items(), ends, strict=True)
    return [{"version": name, "start": start, "end": end} for (name, start), end in spans]


class FakePolicy:
    """Plays `scripts`: one entry per step of every rollout, or a function of (messages, step number).

    An entry is a text, a FakeReply, or an exception to raise. `stop_id` is appended as a sampled token to the
    ids of a text that is not cut. Requests are kept in `requests`, in order.
    """

    def __init__(
        self,
        scripts: Scripts,
        codec: Codec | None = None,
        *,
        stop_id: int | None = None,
        wire: Wire = Wire.IN_PROCESS,
        context_length: int | None = None,
        logprob_mode: LogprobMode = LogprobMode.RAW,
        delay_s: float = 0.0,
    ) -> None:
        if codec is None and stop_id is None:
            stop_id = ByteCodec.end_of_turn
        self._scripts = scripts
        self._codec: Codec = codec or ByteCodec()
        self._stop_id = stop_id
        self._delay_s = delay_s
        self.capabilities: Capabilities = Capabilities(
            wire=wire,
            model="fake",
            server="FakePolicy",
            context_length=context_length,
            logprob_mode=logprob_mode,
            stop_ids=() if stop_id is None else (stop_id,),
        )
        self.requests: list[FakeRequest] = []
        self.closed: bool = False

    async def probe(self) -> Capabilities:
        """The capabilities given at construction."""
        return self.capabilities

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """The scripted completion of `request.step_number`, cut at `sampling.max_tokens`.

        Raises the exception of the script, or IndexError if a list of scripts has no entry for the step.
        """
        # copied: the agent extends the prompt in place after each step
        self.requests.append(FakeRequest(prompt.ids.copy(), tuple(prompt.messages), sampling, request))
        script = self._script(prompt.messages, request.step_number)
        delay_s = self._delay_s + (script.delay_s if isinstance(script, FakeReply) else 0.0)
        await asyncio.sleep(delay_s)
        if isinstance(script, Exception):
            raise script
        reply = FakeReply(script) if isinstance(script, str) else script
        return self._completion(reply, prompt, sampling)

    async def aclose(self) -> None:
        """Set `closed`."""
        self.closed = True

    def _script(self, messages: Sequence[Message], step_number: int) -> Script:
        if callable(self._scripts):
            return self._scripts(messages, step_number)
        if step_number > len(self._scripts):
            raise IndexError(f"FakePolicy has {len(self._scripts)} scripts, step {step_number} was asked for")
        return self._scripts[step_number - 1]

    def _completion(self, reply: FakeReply, prompt: Prompt, sampling: SamplingParams) -> Completion:
        ids, text, finish_reason = self._sampled(reply, sampling.max_tokens)
        wire = self.capabilities.wire
        logprobs = fake_logprobs(ids) if reply.logprobs is None else np.asarray(reply.logprobs, np.float32)
        sampled = Provenance.FROM_LOGPROBS if wire is Wire.CHAT_LOGPROBS else Provenance.SAMPLED
        shown = self._shown(reply, text, finish_reason)
        spans = version_spans(reply.weight_versions, len(ids))
        versions = read_versions({"weight_versions": spans}, len(ids))
        return Completion(
            text=shown.content,
            token_ids=ids if wire.gives_ids else None,
            logprobs=logprobs if wire.gives_ids else None,
            finish_reason=finish_reason,
            provenance=sampled if wire.gives_ids else Provenance.RETOKENIZED,
            logprob_provenance=LogprobProvenance.SAMPLED if wire.gives_ids else LogprobProvenance.ABSENT,
            logprob_mode=self.capabilities.logprob_mode,
            usage_prompt_tokens=len(prompt) if wire.takes_ids else None,
            usage_completion_tokens=len(ids),
            sampling=sampling,
            timings=Timings(request_s=self._delay_s + reply.delay_s),
            model=self.capabilities.model,
            weight_version=versions.last,
            parts=versions.parts if wire.gives_ids else (),
            notes=shown.notes,
            reasoning=shown.reasoning,
            calls=shown.calls,
        )

    def _shown(self, reply: FakeReply, text: str, finish_reason: FinishReason) -> Said:
        """`text` as a server of this wire returns it. Only servers that render the prompt parse it."""
        wire, is_cut = self.capabilities.wire, text != reply.text
        if reply.message is None or is_cut or wire.takes_ids or wire.takes_text:
            return Said(text)
        said = read_message(reply.message, finish_reason)
        return said._replace(content=text) if wire.gives_ids else said.with_text()

    def _sampled(self, reply: FakeReply, max_tokens: int | None) -> tuple[TokenIds, str, FinishReason]:
        encoded = self._codec.encode(reply.text) if reply.token_ids is None else reply.token_ids
        ids = np.asarray(encoded, np.int32)
        ends = reply.finish_reason is FinishReason.STOP and self._stop_id is not None
        if reply.token_ids is None and ends:
            ids = np.append(ids, np.int32(self._stop_id or 0))
        if max_tokens is not None and len(ids) > max_tokens:
            ids = ids[:max_tokens]
            return ids, self._codec.decode(ids), FinishReason.LENGTH
        return ids, reply.text, reply.finish_reason
