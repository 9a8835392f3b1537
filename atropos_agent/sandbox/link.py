"""The host's end of a slot: one request at a time over a socketpair, whose other end is not trusted."""

from __future__ import annotations

import asyncio
import socket
from weakref import WeakKeyDictionary

from atropos_agent.errors import SandboxError, SandboxLost
from atropos_agent.sandbox.inside import frames

# Room for all that a socket holds: an answer that is there is taken whole before an alarm can ring. What is
# received is copied at once, so the links of a loop share the memory.
_ROOM = 1 << 18
_received: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview[int]] = WeakKeyDictionary()


class Link(asyncio.BufferedProtocol):
    """Frames over a stream socket. Anything unexpected, or silence past a deadline, ends it for good."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._loop not in _received:
            _received[self._loop] = memoryview(bytearray(_ROOM))
        self._buffer = _received[self._loop]
        self._transport: asyncio.Transport | None = None
        self._reader = frames.FrameReader()
        self._reply: asyncio.Future[frames.Frame] | None = None
        self._lost: str = ""
        self._deadline = self._patience_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None

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

    def get_buffer(self, sizehint: int) -> memoryview[int]:
        """asyncio's hook: where to put bytes from the slot."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio's hook: bytes from the slot are there."""
        self._reader.feed(self._buffer[:nbytes])
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
        if self._alarm is not None:
            self._alarm.cancel()
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
        self._reply = self._loop.create_future()
        self._transport.write(data)
        self._expect(timeout_s)
        try:
            return await self._reply
        except asyncio.CancelledError:
            self.abandon("the request was cancelled")
            raise
        finally:
            self._reply = None

    def _expect(self, timeout_s: float) -> None:
        """Let the answer be there within `timeout_s`.

        Most come long before that. So an alarm that will ring earlier is left as it is, to find out then that
        there is more time: to set and undo one for each request would cost as much as to send it.
        """
        self._patience_s = timeout_s
        self._deadline = self._loop.time() + timeout_s
        if self._alarm is None or self._alarm.when() > self._deadline:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is None or self._reply is None or self._reply.done():
            return
        # By the time it is now the answer may be there and not yet taken, if the loop was busy.
        if alarm.when() < self._deadline:
            self._set_alarm()
        else:
            self.abandon(f"no answer within {self._patience_s:.1f} s")
