"""A policy behind an OpenAI-compatible HTTP server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import numpy as np

from atropos_agent.config import DebugSettings
from atropos_agent.errors import ConfigError, ProviderError
from atropos_agent.policy.debugging import RequestDebugger, debug_settings, heartbeat
from atropos_agent.policy.limits import within
from atropos_agent.policy.probing import decoded, probe
from atropos_agent.policy.protocol import ANONYMOUS, SESSION_HEADER, Capabilities, Prompt, RequestInfo, Wire
from atropos_agent.policy.scoring import ScoreFormat, find_score_format
from atropos_agent.policy.tokenizing import tokenized
from atropos_agent.policy.transport import Reply, Transport
from atropos_agent.policy.wires import Asked, WireFormat
from atropos_agent.telemetry import Entry, Kind, Phase, redact, sending
from atropos_agent.trajectory import Completion, Logprobs, SamplingParams, Timings, TokenIds

logger: logging.Logger = logging.getLogger(__name__)

PROBE_LIMIT_S = 30.0
"""Time limit of the probe: a server that accepts connections and never answers fails after this time."""


class HttpPolicy:
    """Completions from the server at `base_url` (with or without `/v1`), with the token data it returns.

    `model` may be None if the server serves exactly one. `wire` forces a request format; without it the
    server is probed. At most `max_concurrency` requests are in flight; the others wait here without a time
    limit. `request_timeout_s` bounds one exchange with its retries, without that wait. `debug` defaults to
    the environment variables, read here. Belongs to the event loop that first used it, until `aclose`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        wire: Wire | None = None,
        max_concurrency: int = 256,
        connect_timeout_s: float = 3.0,
        request_timeout_s: float | None = None,
        max_attempts: int = 4,
        headers: Mapping[str, str] | None = None,
        debug: DebugSettings | None = None,
    ) -> None:
        settings = debug_settings(debug)
        secrets = [api_key] if api_key else []
        sent = {"Content-Type": "application/json", **(headers or {})}
        if api_key:
            if "@" in urlsplit(base_url).netloc:  # both would set the Authorization header
                raise ConfigError("a server takes an API key or the user in its URL, not both: leave one out")
            sent["Authorization"] = f"Bearer {api_key}"
        self._transport = Transport(
            _origin(base_url), sent, connect_timeout_s=connect_timeout_s, max_attempts=max_attempts
        )
        self._model = model
        self._wire = Wire.CHAT if settings.bypass_managed_server else wire
        self._timeout_s = _shortest(
            request_timeout_s,
            settings.chat_timeout_s,
            settings.direct_request_timeout_s if settings.bypass_managed_server else None,
        )
        self._secrets = secrets
        self._settings = settings
        self._debugger = RequestDebugger(settings, secrets)
        self._max_concurrency = max_concurrency
        self._reset()
        self._found: tuple[WireFormat, Capabilities] | None = None
        self._scoring: ScoreFormat | str | None = None

    async def __aenter__(self) -> HttpPolicy:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def probe(self) -> Capabilities:
        """What the server can do, as probed; probed once. Raises ProviderError."""
        return (await self._capable())[1]

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """One completion. Raises ServerUnreachable, RequestTimeout, ServerRefused, MalformedReply."""
        wire_format, capabilities = self._found or await self._capable()  # the lock only for the probe
        body = wire_format.body(prompt, sampling)
        url = self._transport.origin + wire_format.path
        arrived = time.perf_counter()
        with self._in_flight(url, request, Phase.QUEUED) as entry, heartbeat(self._settings, entry):
            async with self._slots:
                entry.enter(Phase.WAITING)
                started = time.perf_counter()
                reply = await self._exchange(wire_format.path, body, request, entry)
        timings = Timings(started - arrived, time.perf_counter() - started, reply.attempts)
        try:
            payload = decoded(reply, url, model=capabilities.model)
            asked = Asked(len(prompt) if wire_format.wire.takes_ids else 0, sampling, timings)
            return wire_format.read(payload, asked)
        except ProviderError as error:
            raise self._explained(error, url, request) from None

    async def score(self, ids: TokenIds) -> Logprobs:
        """float32[n]: the model's own log-probability of each id of int32[n] given those before it; NaN for
        the first. Raises ProviderError if the server gives none, or gives a wrong answer."""
        if len(ids) < 2:
            return np.full(len(ids), np.nan, np.float32)
        score_format = await self._score_format()
        url = self._transport.origin + score_format.path
        with self._in_flight(url, ANONYMOUS, Phase.QUEUED) as entry, heartbeat(self._settings, entry):
            async with self._slots:
                entry.enter(Phase.WAITING)
                reply = await self._exchange(score_format.path, score_format.body(ids), ANONYMOUS, entry)
        try:
            return score_format.read(decoded(reply, url, model=self._model or ""), ids)
        except ProviderError as error:
            raise self._named(error, url) from None

    async def tokenize(self, text: str) -> TokenIds | None:
        """The server's own ids of `text`, int32[n], special tokens recognised and none added; None if it has
        no tokenize endpoint. Raises ProviderError."""
        _, capabilities = await self._capable()
        origin = self._transport.origin
        try:
            return await within(self._timeout_s, tokenized(self._transport, capabilities, text), origin)
        except ProviderError as error:
            raise self._named(error, origin) from None

    async def _score_format(self) -> ScoreFormat:
        """The request format for prompt logprobs. Probed once, also if there is none: the refusal is kept."""
        _, capabilities = await self._capable()
        origin = self._transport.origin
        async with self._probing:
            if self._scoring is None:
                try:
                    asking = find_score_format(self._transport, capabilities.model)
                    self._scoring = await within(self._timeout_s or PROBE_LIMIT_S, asking, origin)
                except ProviderError as error:
                    raise self._named(error, origin) from None
            if isinstance(self._scoring, str):
                raise ProviderError(redact(self._scoring, self._secrets))
            return self._scoring

    async def aclose(self) -> None:
        """Close the connections. Idempotent; the next request opens new ones, also in another event loop."""
        await self._transport.aclose()
        self._reset()

    def _reset(self) -> None:
        """New locks: an asyncio lock belongs to the event loop in which a task first waited for it."""
        self._slots = asyncio.Semaphore(self._max_concurrency)
        self._probing = asyncio.Lock()

    async def _capable(self) -> tuple[WireFormat, Capabilities]:
        async with self._probing:
            if self._found is None:
                try:
                    limit_s = min(self._timeout_s or PROBE_LIMIT_S, PROBE_LIMIT_S)
                    with self._in_flight(self._transport.origin, ANONYMOUS, Phase.WAITING) as entry:
                        asking = probe(self._transport, self._model, self._wire)
                        with heartbeat(self._settings, entry), sending(entry):
                            self._found = await within(limit_s, asking, self._transport.origin)
                except ProviderError as error:
                    raise self._named(error, self._transport.origin) from None
                logger.info("%s: %s", self._transport.origin, self._found[1])
            return self._found

    async def _exchange(self, path: str, body: bytes, request: RequestInfo, entry: Entry) -> Reply:
        url = self._transport.origin + path
        # for replica affinity: one replica then has all turns of a rollout in its prefix cache
        headers = {SESSION_HEADER: quote(request.rollout_id, safe="/#")} if request.rollout_id else None
        if self._debugger.is_on:
            self._debugger.request(url, body, request)
        with sending(entry):
            reply = await within(self._timeout_s, self._transport.send("POST", path, body, headers), url)
        if self._debugger.is_on:
            self._debugger.response(url, reply.status, reply.body)
        return reply

    def _explained(self, error: ProviderError, url: str, request: RequestInfo) -> ProviderError:
        """`error` with the URL, logged once with its step and rollout."""
        named = self._named(error, url)
        logger.warning("step %d of rollout %s: %s", request.step_number, request.rollout_id or "-", named)
        return named

    def _named(self, error: ProviderError, url: str) -> ProviderError:
        """The same type of error with the URL in its text, without secrets."""
        text = str(error)
        return type(error)(redact(text if url in text else f"{url}: {text}", self._secrets))

    def _in_flight(self, target: str, request: RequestInfo, phase: Phase) -> Entry:
        owner, places = request.rollout_id, self._max_concurrency
        return Entry(Kind.REQUEST, target, owner=owner, step=request.step_number, phase=phase, places=places)


def _origin(base_url: str) -> str:
    """Scheme, host, port and path prefix, without a trailing `/v1`."""
    parts = urlsplit(base_url if "://" in base_url else f"http://{base_url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = base_url.rpartition("@")[2]  # without a password
        raise ConfigError(f"base_url {shown!r} is not an HTTP address; give e.g. http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _shortest(*limits: float | None) -> float | None:
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None
