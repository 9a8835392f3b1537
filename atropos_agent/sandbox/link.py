"""The host's end of a slot: one request at a time over a socketpair, whose other end is not trusted."""

from __future__ import annotations

import asyncio
import socket

from atropos_agent.errors import SandboxError, SandboxLost
from atropos_agent.sandbox.inside import frames


class Link(asyncio.Protocol):
    """Frames over a stream socket. Anything unexpected, or silence past a deadline, ends it for good."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader = frames.FrameReader()
        self._reply: asyncio.Future[frames.Frame] | None = None
        self._lost: str = ""

    @classmethod
    async def over(cls, end: socket.socket) -> Link:
        """Take over a connected socket."""
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(cls, sock=end)
        return link

    @property
    def alive(self) -> bool:
        """False once the slot is known to be lost."""
        return not self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's hook."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio's hook: bytes from the slot."""
        self._reader.feed(data)
        try:
            frame = self._reader.take()
        except frames.FrameError as error:
            self.abandon(f"the sandbox broke the protocol: {error}")
            return
        if frame is None:
            if self._reply is None:
                self.abandon("the sandbox spoke without being asked")
        elif self._reply is None or self._reply.done() or self._reader.pending:
            self.abandon("the sandbox spoke without being asked")
        else:
            self._reply.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's hook: the slot is gone."""
        self.abandon(f"the sandbox closed its connection{f': {exc}' if exc else ''}")

    def abandon(self, reason: str) -> None:
        """Close the link; a request under way fails with `reason`. Closing it ends the slot."""
        self._lost = self._lost or reason
        if self._transport is not None:
            self._transport.abort()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(SandboxLost(self._lost))

    async def request(
        self, meta: dict[str, object], payload: bytes = b"", *, timeout_s: float
    ) -> frames.Frame:
        """The answer to one frame. Raises SandboxLost, SandboxError where the request is too large.

        Cancelling loses the slot.
        """
        if self._lost or self._transport is None:
            raise SandboxLost(self._lost)
        try:
            data = frames.encode(meta, payload)
        except frames.FrameError as error:
            raise SandboxError(f"the request cannot be sent: {error}") from error
        reply: asyncio.Future[frames.Frame] = asyncio.get_running_loop().create_future()
        self._reply = reply
        self._transport.write(data)
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            if not reply.cancelled():  # both came while the loop was busy elsewhere: the slot did answer
                return reply.result()
            self.abandon(f"no answer within {timeout_s:.1f} s")
            raise SandboxLost(self._lost) from None
        except asyncio.CancelledError:
            self.abandon("the request was cancelled")
            raise
        finally:
            self._reply = None
