"""A policy over a server object in the style of atroposlib; the library itself is not needed.

Uses the best method that works: `tokens_and_logprobs_completion` (ids in, ids out), then a managed session
whose nodes hold the tokens of each completion, then the text of `chat_completion`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from atropos_agent.config import DebugSettings
from atropos_agent.errors import ConfigError, MalformedReply, ModelNotFound, ProviderError
from atropos_agent.policy.debugging import RequestDebugger, debug_settings, heartbeat
from atropos_agent.policy.failures import SHAPE_STATUSES
from atropos_agent.policy.foreign import foreign, listed
from atropos_agent.policy.http import HttpPolicy
from atropos_agent.policy.limits import within
from atropos_agent.policy.managed_nodes import field_of, new_node, read_node
from atropos_agent.policy.protocol import ANONYMOUS, Capabilities, Prompt, RequestInfo, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.messages import Said, outgoing, read_message
from atropos_agent.telemetry import Entry, Kind
from atropos_agent.trajectory import (
    Completion,
    FinishReason,
    LogprobProvenance,
    Provenance,
    SamplingParams,
    Timings,
)

logger: logging.Logger = logging.getLogger(__name__)

DEFAULT_MAX_TOKENS = 2048
"""Used if nothing bounds a completion: the default of some engines is 16 tokens."""
PROBE_IDS = (1, 2)
NO_SUCH_ANSWER = (NotImplementedError, AttributeError, TypeError, ValueError, LookupError)
"""Errors of a server object that gives no ids, or that cannot read the response of its own endpoint."""


@runtime_checkable
class AtroposServer(Protocol):
    """The minimum of a server object. `tokens_and_logprobs_completion` and `managed_server` are optional."""

    def chat_completion(self, **kwargs: object) -> Awaitable[object]:
        """An OpenAI chat completion object."""
        ...


class ManagedPolicy:
    """A Policy over an atroposlib-style `server`, which the caller owns.

    `ATROPOS_BYPASS_MANAGED_SERVER` sends requests to the server's own address instead, without tracking.
    """

    def __init__(self, server: AtroposServer, *, debug: DebugSettings | None = None) -> None:
        self._server = server
        self._debug = debug_settings(debug)
        self._debugger = RequestDebugger(self._debug, _secrets(server))
        self._direct = _direct_policy(server, self._debug) if self._debug.bypass_managed_server else None
        self._found: Capabilities | None = None

    async def probe(self) -> Capabilities:
        """Which methods of the server work; tried once. Raises ProviderError."""
        if self._direct is not None:
            return await self._direct.probe()
        if self._found is None:
            wire = await self._wire()
            self._found = Capabilities(wire, _model(self._server), type(self._server).__name__)
        return self._found

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """One completion. Raises ProviderError, also for placeholder tokens; RequestTimeout."""
        if self._direct is not None:
            return await self._direct.complete(prompt, sampling, request=request)
        what = f"{type(self._server).__name__} step {request.step_number} {request.rollout_id}"
        name = type(self._server).__name__
        entry = Entry(Kind.REQUEST, name, owner=request.rollout_id, step=request.step_number)
        with entry, heartbeat(self._debug, entry):
            return await within(self._debug.chat_timeout_s, self._asked(prompt, sampling, request), what)

    async def aclose(self) -> None:
        """Close the direct connection of a bypass. The server object stays open: the caller owns it."""
        if self._direct is not None:
            await self._direct.aclose()

    async def _asked(self, prompt: Prompt, sampling: SamplingParams, request: RequestInfo) -> Completion:
        wire = (await self.probe()).wire
        asking = self._by_ids if wire is Wire.IN_PROCESS else self._by_chat
        return await asking(prompt, sampling, request)

    async def _call(
        self, ask: Callable[..., Awaitable[object]] | None, asked: dict[str, object], request: RequestInfo
    ) -> object:
        """Call the server object; log the call and the answer if the debug settings ask for it."""
        if not self._debugger.is_on:
            return await _called(ask, asked)
        name = type(self._server).__name__
        self._debugger.call(name, {"model": _model(self._server), **asked}, request)
        answer = await _called(ask, asked)
        self._debugger.answer(name, answer)
        return answer

    async def _wire(self) -> Wire:
        # the method may exist and raise NotImplementedError: only a call shows whether it works
        if hasattr(self._server, "tokens_and_logprobs_completion"):
            prompt = Prompt()
            prompt.extend(np.array(PROBE_IDS, np.int32))
            try:
                await self._by_ids(prompt, SamplingParams(max_tokens=1), ANONYMOUS)
            except ProviderError as error:
                if not _lacks_ids(error):
                    raise
                logger.warning("%s gives no ids: %s", type(self._server).__name__, error)
            else:
                return Wire.IN_PROCESS
        tracks = hasattr(self._server, "managed_server") or hasattr(self._server, "get_state")
        return Wire.CHAT_IDS if tracks else Wire.CHAT

    async def _by_ids(self, prompt: Prompt, sampling: SamplingParams, request: RequestInfo) -> Completion:
        started = time.perf_counter()
        ask = getattr(self._server, "tokens_and_logprobs_completion", None)
        asked = {
            "input_ids": prompt.ids.tolist(),
            "prompt": prompt.text,
            **_sampling(sampling, extended=True),
        }
        answer = await self._call(ask, asked, request)
        sent, sampled, scored, reason = _first_of_each(answer)
        prompt_ids = common.token_ids(listed(sent, "prompt_tokens"), "prompt_tokens")
        ids = common.token_ids(listed(sampled, "output_tokens"), "output_tokens")
        logprobs = common.logprobs(listed(scored, "output_logprobs"), "output_logprobs")
        common.require_count(len(logprobs), len(ids), "logprobs", "sampled ids")
        if not np.array_equal(prompt_ids, prompt.ids):
            raise MalformedReply(
                f"the server changed the prompt: {len(prompt)} ids sent, {len(prompt_ids)} used"
            )
        return Completion(
            text="",
            token_ids=ids,
            logprobs=logprobs,
            finish_reason=common.finish_reason(
                reason.get("type") if isinstance(reason, dict) else reason, "finish_reason"
            ),
            provenance=Provenance.SAMPLED,
            logprob_provenance=LogprobProvenance.SAMPLED,
            usage_prompt_tokens=len(prompt_ids),
            usage_completion_tokens=len(ids),
            sampling=sampling,
            timings=Timings(request_s=time.perf_counter() - started),
            model=_model(self._server),
        )

    async def _by_chat(self, prompt: Prompt, sampling: SamplingParams, request: RequestInfo) -> Completion:
        started = time.perf_counter()
        asked = {"messages": [*outgoing(prompt.messages)], **_sampling(sampling, extended=False)}
        if prompt.tools:
            asked["tools"] = [tool.to_dict() for tool in prompt.tools]
        async with self._session() as session:
            before = _nodes(session)  # the session may be shared: only new nodes can be ours
            answer = await self._call(session.chat_completion, asked, request)
            said, reason = _message(answer)
            shown = said.with_text()
            plain = Completion(
                text=shown.content,
                finish_reason=reason,
                sampling=sampling,
                timings=Timings(request_s=time.perf_counter() - started),
                model=_model(self._server),
                notes=shown.notes,
                reasoning=shown.reasoning,
                calls=shown.calls,
            )
            after = _nodes(session)
            return plain if after is None else read_node(new_node(before or [], after, plain.text), plain)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[AtroposServer]:
        """A managed session of the server, or the server itself if it has none."""
        opener = getattr(self._server, "managed_server", None)
        if opener is None:
            yield self._server
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(
                    opener(tokenizer=getattr(self._server, "tokenizer", None))
                )
            except NotImplementedError as error:
                logger.warning("no token tracking by %s: %s", type(self._server).__name__, error)
                session = self._server
            yield session


async def _called(ask: Callable[..., Awaitable[object]] | None, asked: dict[str, object]) -> object:
    if ask is None:
        raise ProviderError("the server object has no such method")
    return await foreign(ask, **asked)


def _sampling(sampling: SamplingParams, *, extended: bool) -> dict[str, object]:
    asked = common.openai_sampling(sampling, extended=extended)
    for name in ("stream", "seed", "min_tokens"):  # not every engine behind these objects takes them
        asked.pop(name, None)
    asked["max_tokens"] = DEFAULT_MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens
    return asked


def _first_of_each(answer: object) -> tuple[object, object, object, object]:
    """Prompt ids, and of the first completion its ids, logprobs and finish reason, all unchecked."""
    try:
        prompt_ids, ids, logprobs, reasons = answer  # type: ignore[misc]
        return prompt_ids, ids[0], logprobs[0], reasons[0]  # type: ignore[has-type]
    except (TypeError, ValueError, LookupError):
        raise MalformedReply(f"tokens_and_logprobs_completion returned {answer!r:.80}") from None


def _lacks_ids(error: BaseException) -> bool:
    """True if `error` or one of its causes means that the server cannot give ids, as opposed to an outage."""
    cause: BaseException | None = error  # `foreign` wraps the error of the server object
    while cause is not None:
        if isinstance(cause, ModelNotFound):
            return False
        if isinstance(cause, NO_SUCH_ANSWER):
            return True
        if SHAPE_STATUSES & {getattr(cause, "status", None), getattr(cause, "status_code", None)}:
            return True
        cause = cause.__cause__
    return False


def _nodes(session: object) -> list[object] | None:
    state = getattr(session, "get_state", None)
    if state is None:
        return None
    return [*common.entries(common.mapping(state(), "get_state()").get("nodes"), "nodes")]


def _message(answer: object) -> tuple[Said, FinishReason]:
    choices = field_of(answer, "choices")
    if not isinstance(choices, Sequence) or not choices:
        raise MalformedReply("choices is empty: the server returned no completion")
    reason = common.FINISH_REASONS.get(str(field_of(choices[0], "finish_reason")), FinishReason.OTHER)
    message = field_of(choices[0], "message")
    fields = {name: field_of(message, name) for name in ("content", "reasoning", "reasoning_content")}
    return read_message({**fields, "tool_calls": _calls(message)}, reason), reason


def _calls(message: object) -> list[object]:
    """The calls that the server parsed, in the form of the OpenAI API."""
    listed = field_of(message, "tool_calls")
    functions = [field_of(call, "function") for call in listed] if isinstance(listed, list | tuple) else []
    return [{"function": {n: field_of(f, n) for n in ("name", "arguments")}} for f in functions]


def _model(server: object) -> str:
    for owner in (getattr(server, "config", None), server):
        for name in ("model_name", "model"):
            if isinstance(found := getattr(owner, name, None), str):
                return found
    first = next(iter(getattr(server, "servers", None) or ()), None)
    return "" if first is None else _model(first)


def _secrets(server: object) -> list[str]:
    """The API keys of a server object and its endpoints, to be redacted in logs."""
    first = next(iter(getattr(server, "servers", None) or ()), None)
    owners = (server, getattr(server, "config", None), first, getattr(first, "config", None))
    keys = [getattr(owner, "api_key", None) for owner in owners]
    return [key for key in keys if isinstance(key, str)]


def _direct_policy(server: object, debug: DebugSettings) -> HttpPolicy:
    """A policy for the address of a server object: that of its first `servers` entry, else its own."""
    first = next(iter(getattr(server, "servers", None) or ()), None)
    for owner in (getattr(first, "config", None), first, server):
        url, key = getattr(owner, "base_url", None), getattr(owner, "api_key", None)
        if isinstance(url, str) and isinstance(key, str) and (model := _model(owner)):
            return HttpPolicy(url, model=model, api_key=key, debug=debug)
    raise ConfigError(
        f"ATROPOS_BYPASS_MANAGED_SERVER is set, but {type(server).__name__} names no base_url, api_key and "
        "model_name; unset it, or give the agent a base URL"
    )
