"""Jobs and sessions of a slot, seen from the host."""

from __future__ import annotations

import math
from typing import Protocol

from atropos_agent.errors import SandboxError, SandboxLost
from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.report import Report
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus, JobReport
from atropos_agent.sandbox.replies import fields_of, report_of, status_of


def check_timeout(timeout_s: float) -> None:
    """Raises SandboxError unless `timeout_s` is a positive, finite number."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise SandboxError(f"timeout_s is {timeout_s!r}; it must be a positive number of seconds")


class Channel(Protocol):
    """The way to the slot that a job or a session belongs to."""

    async def ask(self, meta: dict[str, object]) -> frames.Frame:
        """The answer to a request that takes no time. Raises SandboxLost."""
        ...

    async def run(
        self, meta: dict[str, object], payload: bytes, *, timeout_s: float
    ) -> tuple[ExecResult, frames.Frame | None]:
        """How a command ended, with the reply that says so, None where the sandbox was lost."""
        ...

    def struck(self, said: Report) -> bool:
        """True where the kernel killed something there for want of memory since that was last asked."""
        ...

    def lost(self, error: Exception) -> SandboxLost:
        """Give the slot up because of an answer that makes no sense."""
        ...


class SlotJob:
    """See `Job`."""

    def __init__(self, channel: Channel, number: int, output_kept: int) -> None:
        self._channel = channel
        self._number = number
        self._output_kept = output_kept
        self._last: JobReport | None = None

    async def poll(self) -> JobReport:
        """See `Job.poll`."""
        return self._last or await self._ask("poll")

    async def kill(self) -> JobReport:
        """See `Job.kill`."""
        return self._last or await self._ask("end")

    async def _ask(self, op: str) -> JobReport:
        frame = await self._channel.ask({"op": op, "job": self._number})
        try:
            report = self._report(report_of(frame, self._output_kept))
        except (frames.FrameError, OSError) as error:
            raise self._channel.lost(error) from error
        if not report.running:
            self._last = report
        return report

    def _report(self, said: Report) -> JobReport:
        status = status_of(said)
        struck = status is not None and self._channel.struck(said)
        if struck and status in (ExecStatus.KILLED, ExecStatus.NONZERO):
            status = ExecStatus.OOM
        return JobReport(*fields_of(said, status))


class SlotSession:
    """See `Session`."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self._number = number
        self._alive = True

    @property
    def alive(self) -> bool:
        """See `Session.alive`."""
        return self._alive

    async def run(self, text: str, *, timeout_s: float = 30.0) -> ExecResult:
        """See `Session.run`."""
        if "\0" in text:
            raise SandboxError(f"text has a NUL byte at {text.index(chr(0))}; a session cannot take one")
        check_timeout(timeout_s)
        if not self._alive:
            raise SandboxError("the session has ended; open another")
        meta: dict[str, object] = {"op": "run_in_session", "session": self._number, "timeout_s": timeout_s}
        payload = text.encode("utf-8", "surrogatepass")
        result, frame = await self._channel.run(meta, payload, timeout_s=timeout_s)
        self._alive = frame is not None and frame.meta.get("alive") is True
        return result

    async def close(self) -> None:
        """See `Session.close`."""
        if self._number:
            number, self._number, self._alive = self._number, 0, False
            await self._channel.ask({"op": "close_session", "session": number})
