"""One shared HTTP client: httpx over aiohttp's connections, with bounded retries.

Handles connections, statuses and retries; does not know prompts. The connect timeout covers the connect
only, not the wait for a free connection or for the first byte.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from atropos_agent.errors import MalformedReply, ServerUnreachable
from atropos_agent.policy.failures import shown_body
from atropos_agent.telemetry import CURRENT, Entry, Phase

logger: logging.Logger = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504, 529})
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
UNANSWERED_LIMIT_S = 4.5
"""Time limit of all attempts at a server that has never answered: it is probably down or the URL is wrong."""
CUT_ATTEMPTS = 2
"""Attempts at a request whose answer was cut: each may cost the server a whole completion."""

_EXPONENTIAL = wait_exponential(FIRST_BACKOFF_S, LONGEST_BACKOFF_S) + wait_random(0.0, FIRST_BACKOFF_S)


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer, of any status."""

    status: int
    body: bytes
    attempts: int


class _AttemptError(Exception):
    """An attempt that may be repeated: no connection, a cut answer, or a status of `RETRIED_STATUSES`."""

    def __init__(
        self, why: str, *, cut: bool = False, reply: Reply | None = None, after_s: float = 0.0
    ) -> None:
        super().__init__(why)
        self.why = why
        self.cut = cut
        self.reply = reply
        self.after_s = after_s


class Transport:
    """Sends requests to one server. Belongs to the event loop that first used it, until `aclose`.

    `address` is scheme, host, port and path prefix; `origin` is the same without user and password, for error
    texts and logs. `headers` are sent with every request.
    """

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str],
        *,
        connect_timeout_s: float,
        max_attempts: int,
    ) -> None:
        parts = urlsplit(address)
        self.origin: str = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._address = address
        self._headers = httpx.Headers(dict(headers))
        # no read timeout: a completion may take any time; HttpPolicy has a limit for a whole exchange
        self._timeout = {"connect": connect_timeout_s, "read": None, "write": None, "pool": None}
        self._connect_timeout_s = connect_timeout_s
        self._max_attempts = max_attempts
        self._urls: dict[str, httpx.URL] = {}
        self._wire: httpx.AsyncBaseTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answered = False

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The answer to one request, retried as needed; an error status is returned, not raised.

        Raises ServerUnreachable, MalformedReply (the answer was cut), RuntimeError (another event loop).
        """
        started = time.monotonic()
        attempts = 0

        async def attempt() -> Reply:
            nonlocal attempts
            attempts += 1
            return await self._attempt(method, path, body, headers, attempts)

        try:
            return await attempt()
        except _AttemptError as failure:
            first = failure
        try:
            return await self._again(attempt, first, started)
        except _AttemptError as failure:
            if failure.reply is not None:
                return failure.reply
            url, spent_s = self.origin + path, time.monotonic() - started
            tried = f"{attempts} attempt{'s' if attempts > 1 else ''}, {spent_s:.1f} s"
            if failure.cut:
                raise MalformedReply(f"{url} cut its answer: {failure.why} ({tried})") from failure
            raise ServerUnreachable(f"cannot reach {url}: {failure.why} ({tried})") from failure

    async def _again(
        self, attempt: Callable[[], Awaitable[Reply]], failure: _AttemptError, started: float
    ) -> Reply:
        """Make further attempts after the first one ended in `failure`.

        The retry library is used only from here on: it would cost time in every successful request.
        """
        failures = iter((failure,))  # its first "attempt" replays the failure, so that it counts and waits

        async def replayed() -> Reply:
            for first in failures:
                raise first
            return await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_AttemptError),
            stop=partial(self._gives_up, started),
            wait=_backoff,
            before_sleep=self._log_retry,
            reraise=True,
        )
        return await retrying(replayed)

    async def aclose(self) -> None:
        """Close all connections. Idempotent; the next request may use another event loop."""
        wire, self._wire, self._loop = self._wire, None, None
        if wire is not None:
            await wire.aclose()

    def _open(self) -> httpx.AsyncBaseTransport:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise RuntimeError(
                f"the policy for {self.origin} belongs to another event loop; "
                "close it there first, or build one policy per loop"
            )
        if self._wire is None:
            secure = self._address.startswith("https:")
            verify = httpx.create_ssl_context() if secure else False
            self._wire = AiohttpTransport(verify=verify, client=partial(_session, verify))
        return self._wire

    async def _attempt(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, attempts: int
    ) -> Reply:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._address + path)
        request = httpx.Request(
            method, url, headers=self._headers, content=body, extensions={"timeout": self._timeout}
        )
        if headers:
            request.headers.update(headers)
        try:
            response = await self._open().handle_async_request(request)
        except httpx.TransportError as error:
            raise _classified(error, self._connect_timeout_s) from error
        if (entry := CURRENT.get()) is not None:
            entry.enter(Phase.READING)
        try:
            content = await _whole(response, entry)
        except httpx.TransportError as error:
            raise _AttemptError(str(error) or "connection lost", cut=True) from error
        finally:
            await response.aclose()
        self._answered = True
        reply = Reply(response.status_code, content, attempts)
        if response.status_code in RETRIED_STATUSES:
            why = f"status {response.status_code}: {shown_body(content)}"
            raise _AttemptError(why, reply=reply, after_s=_retry_after_s(response.headers.get("retry-after")))
        return reply

    def _gives_up(self, started: float, state: RetryCallState) -> bool:
        failure = _failure(state)
        if state.attempt_number >= (CUT_ATTEMPTS if failure.cut else self._max_attempts):
            return True
        if self._answered or failure.reply is not None:  # the server exists: it may only be busy
            return False
        next_end_s = time.monotonic() - started + _backoff(state) + self._connect_timeout_s
        return next_end_s > UNANSWERED_LIMIT_S

    def _log_retry(self, state: RetryCallState) -> None:
        if (entry := CURRENT.get()) is not None:
            entry.again(state.attempt_number + 1, _failure(state).why)
        logger.warning(
            "%s: %s; attempt %d of %d in %.1f s",
            self.origin,
            _failure(state).why,
            state.attempt_number + 1,
            self._max_attempts,
            state.upcoming_sleep,
        )


async def _whole(response: httpx.Response, entry: Entry | None) -> bytes:
    """The body. A plain one is read without httpx's decoders, which cost a tenth of a request."""
    if not isinstance(response.stream, httpx.AsyncByteStream) or "content-encoding" in response.headers:
        return await response.aread()
    chunks: list[bytes] = []
    async for chunk in response.stream:
        chunks.append(chunk)
        if entry is not None:
            entry.read(len(chunk))
    return b"".join(chunks)


def _session(verify: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    """No limit on connections (the policy has its own), no proxy from the environment, no cookies."""
    # aiohttp's default limit is 100 connections; further requests would wait where the table shows no queue
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, ssl=verify),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        trace_configs=[_connects()],
    )


def _connects() -> aiohttp.TraceConfig:
    """Updates the phase in the in-flight table while a connection is made."""
    config = aiohttp.TraceConfig()

    async def begins(*_: object) -> None:
        if (entry := CURRENT.get()) is not None:
            entry.enter(Phase.CONNECTING)

    async def done(*_: object) -> None:
        if (entry := CURRENT.get()) is not None:
            entry.enter(Phase.WAITING)

    config.on_connection_create_start.append(begins)
    config.on_connection_create_end.append(done)
    return config


def _failure(state: RetryCallState) -> _AttemptError:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, _AttemptError):
        raise TypeError(f"retried for {error!r}")
    return error


def _backoff(state: RetryCallState) -> float:
    """Exponential with jitter, or the time of Retry-After if that is longer."""
    return max(float(_EXPONENTIAL(state)), _failure(state).after_s)


def _retry_after_s(header: str | None) -> float:
    """The seconds of a Retry-After header; 0 without one, or for its date form."""
    try:
        return min(max(float(header or 0.0), 0.0), LONGEST_RETRY_AFTER_S)
    except ValueError:
        return 0.0


def _classified(error: httpx.TransportError, connect_timeout_s: float) -> _AttemptError:
    """The failed attempt of an exchange that broke before the answer began; its text is never empty."""
    # httpx's error is general; its cause, the error of aiohttp, has the precise type
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ServerTimeoutError):
        return _AttemptError(f"no connection within {connect_timeout_s:g} s")
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return _AttemptError("the server closed the connection before answering")
    if isinstance(cause, aiohttp.ClientConnectorError) and (cause.errno or 0) > 0:
        return _AttemptError(os.strerror(cause.errno or 0))
    return _AttemptError(str(cause) or type(cause).__name__)
