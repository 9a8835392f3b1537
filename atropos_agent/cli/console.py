"""Shared by all commands: the console, exit codes, errors as text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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
    """Show an expected error as text. Exits with 2 if the input or the machine must be corrected, else 1."""
    try:
        yield
    except AtroposAgentError as error:
        _fail_with(error)
    except ExceptionGroup as failures:  # of a TaskGroup; any unexpected error in it needs the traceback
        expected, unexpected = failures.split(AtroposAgentError)
        if expected is None or unexpected is not None:
            raise
        _fail_with(_first(expected))


def _fail_with(error: AtroposAgentError) -> NoReturn:
    if isinstance(error, ConfigError | SandboxUnavailable):
        fail(str(error), WRONG_INPUT)
    fail(f"{type(error).__name__}: {error}", FAILED)


def _first(failures: ExceptionGroup[AtroposAgentError]) -> AtroposAgentError:
    """The first plain error inside nested groups."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def fail(text: str, code: int) -> NoReturn:
    """Print `text` as an error and exit with `code`."""
    complain(text)
    raise typer.Exit(code)


def complain(text: str) -> None:
    """Print `text` as an error."""
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)


def warn(text: str) -> None:
    """Print `text` as a warning."""
    err.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


def is_terminal() -> bool:
    """True where a live display makes sense."""
    return sys.stdout.isatty() and out.is_terminal
