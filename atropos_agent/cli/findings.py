"""Print the findings of `doctor` on the console."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from atropos_agent.cli.console import out
from atropos_agent.doctor import (
    BackendFound,
    Check,
    Grade,
    Verdict,
    examine_kernel,
    examine_sandboxes,
    judge_sandboxes,
)

MARKS = {Grade.GOOD: "[green]ok[/]  ", Grade.LOSS: "[yellow]loss[/]", Grade.BAD: "[red]bad[/] "}
MARKS[Grade.UNKNOWN] = "[dim]?[/]   "


def show(check: Check) -> None:
    """Print one check as a line."""
    out.print(f"{MARKS[check.grade]} {check.name:<16} {escape(check.text)}", soft_wrap=True)


async def show_sandboxes(backend: str | None, image: str | None) -> Verdict:
    """Print the checks of the kernel, then each backend when it was tried.

    Raises ConfigError for an unknown backend name.
    """
    found: list[BackendFound] = []
    async for one in examine_sandboxes(backend, image or ""):
        if not found:  # only now: an unknown name has been refused before anything is printed
            for check in examine_kernel():
                show(check)
        found.append(one)
        _show_backend(one)
    return judge_sandboxes(found, backend)


def _show_backend(found: BackendFound) -> None:
    if found.refusal is not None:
        out.print(f"\n[bold]{found.backend}[/]: refused: {escape(found.refusal.text)}", soft_wrap=True)
        return
    how = "[bold red]UNSAFE[/]" if found.unsafe else "usable"
    table = Table(title=f"{found.backend}: {how}", title_justify="left", title_style="bold")
    for heading in ("", "limit", "in force", "how hard", "tried"):
        table.add_column(heading, overflow="fold")
    for limit in found.limits:
        mark = MARKS[limit.check.grade].strip()
        table.add_row(mark, limit.check.name, limit.mechanism, limit.strength, escape(limit.check.text))
    out.print()
    out.print(table)
