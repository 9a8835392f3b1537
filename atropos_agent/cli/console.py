"""What every command shares: the console, exit codes, errors as text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from atropos_agent.errors import AtroposAgentError, ConfigError, SandboxUnavailable

WRONG_INPUT = 2
FAILED = 1
INTERRUPTED = 130

out: Console = Console()
err: Console = Console(stderr=True)


@contextmanager
def exits() -> Iterator[None]:
    """Show an expected error as text: exit 2 for what the user can mend before the run, 1 otherwise."""
    try:
        yield
    except (ConfigError, SandboxUnavailable) as error:
        fail(str(error), WRONG_INPUT)
    except AtroposAgentError as error:
        fail(f"{type(error).__name__}: {error}", FAILED)


def fail(text: str, code: int) -> None:
    """Print `text` as an error and exit with `code`."""
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
    raise typer.Exit(code)


def warn(text: str) -> None:
    """Print `text` as a warning."""
    err.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


def is_terminal() -> bool:
    """True where a live display makes sense."""
    return sys.stdout.isatty() and out.is_terminal
