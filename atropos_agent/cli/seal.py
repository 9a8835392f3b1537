"""`seal`: move the finished groups of a run into compressed Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atropos_agent.cli.console import exits, out
from atropos_agent.record import RunDir

EPILOG = """Example:

atropos-agent seal runs/quickstart
"""


def seal(run: Annotated[Path, typer.Argument(help="A run directory that no other process writes.")]) -> None:
    """Move the recorded groups of a run into a Parquet segment. The run stays readable and can be resumed."""
    with exits(), RunDir.open(run) as log:
        sealed = log.seal()
    if not sealed.rollouts:
        out.print(f"{run} has no unsealed groups")
        return
    size = f"{sealed.live_bytes:,} bytes became {sealed.segment_bytes:,}"
    out.print(f"sealed {sealed.rollouts:,} rollouts: {size}", highlight=False)
