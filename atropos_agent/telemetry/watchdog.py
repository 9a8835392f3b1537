"""A thread that watches the in-flight table and reports stalled operations with their cause.

It cancels nothing: a long completion is legal. It also works while the event loop is blocked, and reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from atropos_agent.telemetry.causes import Cause, Stall, explain, is_moving
from atropos_agent.telemetry.flight_recorder import FlightRecorder
from atropos_agent.telemetry.in_flight import Entry, Kind, Phase, lines, shortened, table

logger: logging.Logger = logging.getLogger("atropos_agent.stalled")

LONGEST_TICK_S = 1.0
SHUTDOWN_STALL_S = 5.0
REPEAT_AFTER = 2.0
"""A stall is reported again when it has lasted this many times as long as at the last report."""
STACK_LINES = 6
STDERR = 2


class Watchdog:
    """Reports every entry that stalls for `stall_after_s` seconds: one warning for each cause and target,
    repeated at growing intervals. `recorder`, if set, gets every report.

    A signal handler may request a dump; the thread writes it.
    """

    def __init__(self, stall_after_s: float, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.stall_after_s = stall_after_s
        self.recorder: FlightRecorder | None = None
        self._tick_s = min(LONGEST_TICK_S, stall_after_s / 4)
        self._told: dict[Entry, float] = {}
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._loop_seen = time.monotonic()
        self._loop_told = False
        self._wanted = threading.Event()
        self._stopped = False
        self._dump_wanted = False
        self._thread = threading.Thread(target=self._run, name="atropos-agent-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. The ends of reported stalls are still recorded."""
        self._stopped = True
        self._wanted.set()
        self._thread.join()
        self._record_ends(table())

    @property
    def stalled(self) -> list[Entry]:
        """The entries that are stalled now, oldest first."""
        entries = table()
        return [entry for entry in entries if self._stands_still(entry, entries)]

    def ask_for_dump(self) -> None:
        """Request a dump of the whole table to the log and the recorder; safe in a signal handler."""
        # only flags here: a signal handler must not log, it may interrupt a write to the same stream
        self._dump_wanted = True
        self._wanted.set()

    @contextlib.contextmanager
    def recording(self, path: Path) -> Iterator[None]:
        """Record all reports in the file `path` inside the block."""
        self.recorder = FlightRecorder(path)
        try:
            yield
        finally:
            self._record_ends(table())
            self.recorder = None

    def _run(self) -> None:
        while not self._stopped:
            self._wanted.wait(self._tick_s)
            self._wanted.clear()
            if self._dump_wanted:
                self._dump_wanted = False
                self._dump()
            entries = table()
            self._record_ends(entries)
            if not self._loop_is_blocked():  # a blocked loop stalls everything: report it as the one cause
                self._tell(entries)

    def _limit(self, entry: Entry) -> float:
        if entry.phase is Phase.IN_USE:  # a sandbox may serve a rollout for any time
            return float("inf")
        shutting_down = entry.kind is Kind.SHUTDOWN
        return min(SHUTDOWN_STALL_S, self.stall_after_s) if shutting_down else self.stall_after_s

    def _stands_still(self, entry: Entry, entries: Sequence[Entry]) -> bool:
        limit_s = self._limit(entry)
        return entry.phase_age_s >= limit_s and not is_moving(entry, entries, limit_s)

    def _tell(self, entries: Sequence[Entry]) -> None:
        still = [entry for entry in entries if self._stands_still(entry, entries)]
        due = [entry for entry in still if self._is_due(entry)]
        for entry in due:
            self._told[entry] = entry.phase_age_s
        stalls = [explain(entry, entries) for entry in due]
        for alike in _grouped(stalls):
            more = f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""
            logger.warning("%s%s", alike[0].text, more)
        for stall in stalls:
            self._record("stalled", stall.entry, {"cause": stall.cause.name.lower(), "text": stall.text})

    def _is_due(self, entry: Entry) -> bool:
        told, age_s = self._told.get(entry, 0.0), entry.phase_age_s
        if age_s < told:  # it made progress since the last report, and stalled again
            self._told[entry] = told = 0.0
        return age_s >= REPEAT_AFTER * told

    def _record_ends(self, entries: Sequence[Entry]) -> None:
        """Record the end of reported stalls: reported entries that have left the table."""
        there = set(entries)
        for entry in [told for told in self._told if told not in there]:
            del self._told[entry]
            self._record("ended", entry, {})

    def _record(self, event: str, entry: Entry, fields: Mapping[str, object]) -> None:
        if self.recorder is not None:
            self.recorder.write(event, {**_facts(entry), **fields})

    def _dump(self) -> None:
        entries = table()
        shown = lines(entries) or ["nothing is in flight"]
        logger.warning("in flight, oldest first:\n%s", "\n".join(shown))
        if self.recorder is not None:
            self.recorder.write("dump", {"in_flight": [_facts(entry) for entry in entries]})

    def _beat(self) -> None:
        """Called by the event loop: proof that it is not blocked."""
        self._loop_seen, self._loop_told = time.monotonic(), False

    def _loop_is_blocked(self) -> bool:
        """Schedule a beat in the loop. Report once, with its stack, a loop that has not run one in time."""
        if self._loop is None:
            return False
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._beat)
        blocked_s = time.monotonic() - self._loop_seen
        if blocked_s >= self.stall_after_s and not self._loop_told:
            self._loop_told = True
            where = _stack_of(self._loop_thread)
            logger.warning("%s for %.1f s, in:\n%s", Cause.LOOP_BLOCKED, blocked_s, where)
            if self.recorder is not None:
                fields = {"cause": Cause.LOOP_BLOCKED.name.lower(), "for_s": blocked_s, "stack": where}
                self.recorder.write("stalled", fields)
        return blocked_s >= self.stall_after_s


_watching: list[Watchdog] = []


@contextlib.contextmanager
def watching(stall_after_s: float | None) -> Iterator[Watchdog | None]:
    """The process's watchdog, running inside the block; None if `stall_after_s` is None.

    A nested block gets the watchdog of the outer one. Enter the block in the event loop to watch.
    """
    if stall_after_s is None or _watching:
        yield _watching[0] if _watching and stall_after_s is not None else None
        return
    watchdog = Watchdog(stall_after_s, asyncio.get_running_loop())
    _watching.append(watchdog)
    watchdog.start()
    try:
        yield watchdog
    finally:
        _watching.remove(watchdog)
        watchdog.stop()


@contextlib.contextmanager
def dump_on_signal(watchdog: Watchdog | None) -> Iterator[None]:
    """SIGUSR1 writes the in-flight table and the stacks of all threads; main thread only."""

    def asked(_number: int, _frame: FrameType | None) -> None:
        if watchdog is not None:
            watchdog.ask_for_dump()

    before = signal.signal(signal.SIGUSR1, asked)
    # after signal.signal, and with `chain`: faulthandler replaces the handler, and then calls the one above.
    # Its output needs a file descriptor: sys.stderr may have been replaced by an object without one.
    faulthandler.register(signal.SIGUSR1, file=STDERR, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)


def _grouped(stalls: Iterable[Stall]) -> list[list[Stall]]:
    """Stalls with the same cause at the same target, in the order of the first of each."""
    groups: dict[tuple[Cause, Kind, str], list[Stall]] = {}
    for stall in stalls:
        groups.setdefault((stall.cause, stall.entry.kind, stall.entry.target), []).append(stall)
    return list(groups.values())


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "kind": entry.kind.value,
        "target": entry.target,
        "owner": entry.owner,
        "step": entry.step,
        "phase": entry.phase.value,
        "age_s": round(entry.age_s, 3),
        "phase_age_s": round(entry.phase_age_s, 3),
        "attempt": entry.attempt,
        "bytes_read": entry.bytes_read,
        "detail": shortened(entry.detail),
    }


def _stack_of(thread: int) -> str:
    """The innermost frames of a thread, as text, innermost last."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to look at a thread
    if frame is None:
        return "  (the thread has ended)"
    return "".join(traceback.format_stack(frame)[-STACK_LINES:]).rstrip()
