"""The live display of a collection; plain lines if stdout is not a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from atropos_agent.cli.console import is_terminal, out
from atropos_agent.cli.in_flight import KEY, InFlightView
from atropos_agent.collect import Progress

LIVE_EVERY_S = 0.25
PLAIN_EVERY_S = 5.0


@asynccontextmanager
async def shown(progress: Progress, slots: int, in_flight: InFlightView) -> AsyncIterator[None]:
    """Show `progress` inside the block; `slots` bounds the rollouts in flight."""
    if not is_terminal():
        printing = asyncio.create_task(_print_lines(progress, slots))
        try:
            yield
        finally:
            printing.cancel()
        return
    panel = _panel(progress, slots, in_flight)
    with in_flight.keys(), Live(panel, console=out, auto_refresh=False, transient=True) as live:
        drawing = asyncio.create_task(_redraw(live, progress, slots, in_flight))
        try:
            yield
        finally:
            drawing.cancel()


async def _print_lines(progress: Progress, slots: int) -> None:
    while True:
        await asyncio.sleep(PLAIN_EVERY_S)
        out.print("  ".join(f"{name} {value}" for name, value in _figures(progress, slots)), soft_wrap=True)


async def _redraw(live: Live, progress: Progress, slots: int, in_flight: InFlightView) -> None:
    while True:
        await asyncio.sleep(LIVE_EVERY_S)
        live.update(_panel(progress, slots, in_flight), refresh=True)


def _panel(progress: Progress, slots: int, in_flight: InFlightView) -> Group:
    done = progress.groups_done + progress.groups_resumed
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        f"[bold]{done}[/]/{progress.groups_total} groups",
        ProgressBar(total=progress.groups_total, completed=done, width=32),
    )
    for name, value in list(_figures(progress, slots))[1:]:
        grid.add_row(f"[dim]{name}[/]", value)
    if (rows := in_flight.rows()) is not None:
        return Group(grid, rows)
    return Group(grid, f"[dim]{KEY}: show operations in flight[/]")


def _figures(progress: Progress, slots: int) -> Iterable[tuple[str, str]]:
    done = progress.groups_done + progress.groups_resumed
    yield "groups", f"{done}/{progress.groups_total}"
    yield "in flight", str(min(progress.in_flight, slots))  # the others only wait for a sandbox
    yield "mean reward", "-" if progress.mean_reward is None else f"{progress.mean_reward:.3f}"
    yield "tokens/s", f"{progress.tokens_per_s:,.0f}"
    yield "errors", ", ".join(f"{kind} {count}" for kind, count in progress.errors.items()) or "none"
    yield "left", "-" if progress.left_s is None else duration(progress.left_s)


def duration(seconds: float) -> str:
    """`seconds` as 3s, 2m05s or 1h04m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
