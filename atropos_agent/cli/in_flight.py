"""The in-flight table on a terminal: shown while `t` toggles it on, and while an operation is stalled."""

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
    """The rows of the in-flight table to display; a key toggles `wanted`."""

    def __init__(self, watchdog: Watchdog | None) -> None:
        self.wanted: bool = False
        self._watchdog = watchdog

    def rows(self) -> Table | None:
        """The oldest entries; None if the table is toggled off and nothing is stalled."""
        stalled = [] if self._watchdog is None else self._watchdog.stalled
        if not self.wanted and not stalled:
            return None
        busy = table() if self.wanted else stalled
        shown = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("age", "in phase", "phase", "what", "whose"):
            shown.add_column(heading, no_wrap=True)
        # sandboxes in use last: there is one per rollout, and they would fill the rows
        for entry in sorted(busy, key=lambda one: one.phase is Phase.IN_USE)[:ROWS]:
            shown.add_row(*_cells(entry), style="red" if entry in stalled else None)
        if len(busy) > ROWS:
            shown.caption = f"and {len(busy) - ROWS} more"
        return shown

    @contextlib.contextmanager
    def keys(self) -> Iterator[None]:
        """React to the key inside the block, if stdin is a terminal. Restores the terminal settings."""
        if not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
            yield  # a background job that changes the terminal is stopped by SIGTTOU
            return
        fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()
        before = termios.tcgetattr(fd)
        tty.setcbreak(fd)  # not raw mode: Ctrl-C must still send SIGINT
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
