"""The in-flight table: what this process waits for now, since when, in which phase, for which rollout.

An entry costs a few attribute writes; text is made only when the table is read. There is one table per
process, because a user who asks why it hangs can only ask the process (by a signal or a key).
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType


class Kind(StrEnum):
    """The kind of operation."""

    REQUEST = "request"
    TOOL = "tool call"
    SANDBOX = "sandbox"
    SCORER = "scorer"
    SHUTDOWN = "shutdown"


class Phase(StrEnum):
    """The phase of an operation. A sandbox is queued, starting or in use; tools and scorers execute."""

    QUEUED = "queued"
    CONNECTING = "connecting"
    BACKING_OFF = "backing off"
    WAITING = "waiting for the first byte"
    READING = "reading"
    EXECUTING = "executing"
    STARTING = "starting"
    IN_USE = "in use"


class Entry:
    """One operation in flight; as a context manager it is in the table inside the block.

    `owner` is a rollout id and `step` its step (0: none); `target` a URL, a tool, an item. `places` bounds
    how many of this target may be past `QUEUED` at once (0: no bound). `detail` says more: the arguments of a
    tool, the reason for a retry. Times are from `time.monotonic`.
    """

    __slots__ = (
        "attempt",
        "bytes_read",
        "detail",
        "kind",
        "owner",
        "phase",
        "phase_since",
        "places",
        "since",
        "step",
        "target",
        "unreached",
    )

    def __init__(
        self,
        kind: Kind,
        target: str,
        *,
        owner: str = "",
        step: int = 0,
        phase: Phase = Phase.EXECUTING,
        places: int = 0,
        detail: object = "",
    ) -> None:
        self.kind: Kind = kind
        self.target: str = target
        self.owner: str = owner
        self.step: int = step
        self.phase: Phase = phase
        self.places: int = places
        self.detail: object = detail
        self.attempt: int = 1
        self.bytes_read: int = 0
        self.unreached: bool = False
        self.since: float = time.monotonic()
        self.phase_since: float = self.since

    def __enter__(self) -> Entry:
        _TABLE[self] = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _TABLE.pop(self, None)

    def enter(self, phase: Phase) -> None:
        """Change to `phase`."""
        # while a server cannot be reached, the phase counts from the first attempt: retries must not hide it
        if not (self.unreached and phase is Phase.CONNECTING):
            self.phase_since = time.monotonic()
            self.unreached = False
        self.phase = phase

    def read(self, size: int) -> None:
        """Note that `size` more bytes of the answer arrived."""
        self.bytes_read += size
        self.phase_since = time.monotonic()

    def again(self, attempt: int, why: str) -> None:
        """Note that attempt number `attempt` follows, for the reason `why`."""
        self.unreached = self.phase in (Phase.CONNECTING, Phase.BACKING_OFF)
        if not self.unreached:
            self.phase_since = time.monotonic()
        self.phase, self.attempt, self.detail, self.bytes_read = Phase.BACKING_OFF, attempt, why, 0

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.since

    @property
    def phase_age_s(self) -> float:
        """Seconds since its phase began, or since the last byte arrived."""
        return time.monotonic() - self.phase_since

    @property
    def name(self) -> str:
        """Kind, target, step and owner, as text."""
        step = f" step {self.step}" if self.step else ""
        owner = f" of {self.owner}" if self.owner else ""
        return f"{self.kind} {self.target}{step}{owner}"

    @property
    def state(self) -> str:
        """Its phase, with bytes read and attempt, as text."""
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        size = f", {self.bytes_read:,} bytes" if self.phase is Phase.READING else ""
        return f"{self.phase}{size}{attempt}"


_TABLE: dict[Entry, None] = {}

CURRENT: ContextVar[Entry | None] = ContextVar("in_flight", default=None)
"""The entry of the request that this task sends; set around one exchange, so that the transport finds it."""


class sending:  # noqa: N801 - a context manager, cheaper than a generator on the path of every request
    """Inside the block, requests of this task belong to `entry`."""

    __slots__ = ("_entry", "_token")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __enter__(self) -> None:
        self._token = CURRENT.set(self._entry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        CURRENT.reset(self._token)


def table() -> list[Entry]:
    """Everything in flight, oldest first. Callable from any thread."""
    # `copy` is one call into C, atomic under the GIL; iterating the table itself would race with the loop
    return sorted(_TABLE.copy(), key=lambda entry: entry.since)


def lines(entries: list[Entry]) -> list[str]:
    """One line of text for each entry."""
    return [
        f"{entry.age_s:8.1f}s  {entry.name}: {entry.state} for {entry.phase_age_s:.1f}s"
        + (f" ({shortened(entry.detail)})" if entry.detail else "")
        for entry in entries
    ]


def shortened(detail: object, limit: int = 160) -> str:
    """`detail` on one line of at most `limit` characters."""
    text = " ".join(str(detail).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
