"""The in-flight table on a terminal: shown when `t` is pressed, and by itself when something stands still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from atropos_agent.telemetry import Entry, Phase, Watchdog, table

KEY = "t"
ROWS = 12


class InFlightView:
    """What the display shows of the in-flight table; `wanted` is toggled by a key."""

    def __init__(self, watchdog: Watchdog | None) -> None:
        self.wanted: bool = False
        self._watchdog = watchdog

    def rows(self) -> Table | None:
        """The oldest entries, None where nobody asked and nothing stands still."""
        stalled = [] if self._watchdog is None else self._watchdog.stalled
        if not self.wanted and not stalled:
            return None
        busy = table() if self.wanted else stalled
        shown = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("age", "in phase", "phase", "what", "whose"):
            shown.add_column(heading, no_wrap=True)
        for entry in sorted(busy, key=lambda one: one.phase is Phase.IN_USE)[:ROWS]:
            shown.add_row(*_cells(entry), style="red" if entry in stalled else None)
        if len(busy) > ROWS:
            shown.caption = f"and {len(busy) - ROWS} more"
        return shown

    @contextlib.contextmanager
    def keys(self) -> Iterator[None]:
        """Heed the key for the length of a block, where there is a keyboard; the terminal is put back."""
        if not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
            yield  # a job in the background that touches the terminal is stopped
            return
        fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()
        before = termios.tcgetattr(fd)
        tty.setcbreak(fd)
        loop.add_reader(fd, self._pressed)
        try:
            yield
        finally:
            loop.remove_reader(fd)
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def _pressed(self) -> None:
        if sys.stdin.read(1).lower() == KEY:
            self.wanted = not self.wanted


def _cells(entry: Entry) -> tuple[str, ...]:
    whose = f"{entry.owner} step {entry.step}" if entry.step else entry.owner
    return (
        f"{entry.age_s:.1f}s",
        f"{entry.phase_age_s:.1f}s",
        entry.state,
        escape(f"{entry.kind} {entry.target}"),
        escape(whose),
    )
