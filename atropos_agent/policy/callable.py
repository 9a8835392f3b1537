"""A policy from one async function, for an engine inside the trainer's process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atropos_agent.config import DebugSettings
from atropos_agent.errors import MalformedReply
from atropos_agent.policy.debugging import RequestDebugger, debug_settings, heartbeat
from atropos_agent.policy.foreign import foreign, listed
from atropos_agent.policy.limits import within
from atropos_agent.policy.protocol import ANONYMOUS, Capabilities, Prompt, RequestInfo, Wire
from atropos_agent.policy.wires import common
from atropos_agent.telemetry import Entry, Kind
from atropos_agent.trajectory import (
    Completion,
    FinishReason,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    SamplingParams,
    Timings,
    TokenIds,
)


class Generated(NamedTuple):
    """What an engine sampled. `token_ids` and `logprobs` have equal length; a sampled stop token is included.

    `finish_reason` None means: `length` where `max_tokens` was reached without a stop token, else `stop`.
    """

    token_ids: Sequence[int] | NDArray[np.integer]
    logprobs: Sequence[float] | NDArray[np.floating] | None = None
    finish_reason: FinishReason | None = None
    text: str = ""


Generate: TypeAlias = Callable[[TokenIds, SamplingParams], Awaitable[Generated]]


class CallablePolicy:
    """Adapts `generate(prompt_ids int32[n], sampling) -> Generated`. Ids in, ids out, no server.

    `stop_ids` are the ids that end a turn; `logprob_mode` says which distribution the logprobs belong to.
    """

    def __init__(
        self,
        generate: Generate,
        *,
        model: str = "in-process",
        stop_ids: Sequence[int] = (),
        context_length: int | None = None,
        logprob_mode: LogprobMode = LogprobMode.UNKNOWN,
        debug: DebugSettings | None = None,
    ) -> None:
        self._generate = generate
        self._debug = debug_settings(debug)
        self._debugger = RequestDebugger(self._debug, ())
        self._capabilities = Capabilities(
            wire=Wire.IN_PROCESS,
            model=model,
            server="in-process",
            context_length=context_length,
            logprob_mode=logprob_mode,
            stop_ids=tuple(stop_ids),
        )

    async def probe(self) -> Capabilities:
        """The capabilities given at construction."""
        return self._capabilities

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """One completion. Raises MalformedReply for inconsistent counts or invalid numbers; RequestTimeout;
        ProviderError for any exception of the engine.
        """
        started = time.perf_counter()
        what = f"{self._capabilities.model} step {request.step_number} {request.rollout_id}"
        if self._debugger.is_on:
            self._debugger.call(self._capabilities.model, self._asked(prompt, sampling), request)
        entry = Entry(
            Kind.REQUEST, self._capabilities.model, owner=request.rollout_id, step=request.step_number
        )
        with entry, heartbeat(self._debug, entry):
            answer = foreign(self._generate, prompt.ids, sampling)
            generated = await within(self._debug.chat_timeout_s, answer, what)
        if not isinstance(generated, Generated):
            raise MalformedReply(f"{what}: the engine returned {generated!r:.80}, not Generated")
        if self._debugger.is_on:
            self._debugger.answer(self._capabilities.model, generated._asdict())
        return self._checked(generated, prompt, sampling, Timings(request_s=time.perf_counter() - started))

    async def aclose(self) -> None:
        """Nothing to release: the caller owns the engine."""

    def _asked(self, prompt: Prompt, sampling: SamplingParams) -> dict[str, object]:
        """The arguments for the engine, in the form of a server request (for the debug output)."""
        asked = common.openai_sampling(sampling, extended=True)
        return {
            "model": self._capabilities.model,
            "prompt": prompt.ids.tolist(),
            "max_tokens": sampling.max_tokens,
            **asked,
        }

    def _checked(
        self, generated: Generated, prompt: Prompt, sampling: SamplingParams, timings: Timings
    ) -> Completion:
        ids = common.token_ids(listed(generated.token_ids, "token_ids"), "token_ids")
        logprobs = None
        if generated.logprobs is not None:
            logprobs = common.logprobs(listed(generated.logprobs, "logprobs"), "logprobs")
            common.require_count(len(logprobs), len(ids), "logprobs", "sampled ids")
        has_logprobs = logprobs is not None
        return Completion(
            text=generated.text,
            token_ids=ids,
            logprobs=logprobs,
            finish_reason=generated.finish_reason or self._finish_reason(ids, sampling),
            provenance=Provenance.SAMPLED,
            logprob_provenance=LogprobProvenance.SAMPLED if has_logprobs else LogprobProvenance.ABSENT,
            logprob_mode=self._capabilities.logprob_mode if has_logprobs else LogprobMode.UNKNOWN,
            usage_prompt_tokens=len(prompt),
            usage_completion_tokens=len(ids),
            sampling=sampling,
            timings=timings,
            model=self._capabilities.model,
        )

    def _finish_reason(self, ids: TokenIds, sampling: SamplingParams) -> FinishReason:
        stopped = len(ids) > 0 and int(ids[-1]) in self._capabilities.stop_ids
        # a stop token in the last allowed place ended the turn: that is no truncation
        full = sampling.max_tokens is not None and len(ids) >= sampling.max_tokens
        return FinishReason.LENGTH if full and not stopped else FinishReason.STOP
