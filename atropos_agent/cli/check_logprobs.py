"""`check-logprobs`: are the logprobs of a run those of the weights it was sampled from?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atropos_agent.cli.console import FAILED, exits, fail, out, warn
from atropos_agent.errors import RenderError
from atropos_agent.logprob_check import Distribution, LogprobCheck, OriginCheck, Weights, check_run
from atropos_agent.renderer import Renderer
from atropos_agent.rundir import read_manifest
from atropos_agent.sinks.report import visible_pieces, write_report

EPILOG = """Examples:

atropos-agent check-logprobs runs/terminal-tasks --model Qwen/Qwen3-8B

atropos-agent check-logprobs runs/terminal-tasks --model ./checkpoint --max-p99 1e-3 --max 0.1
"""


def check_logprobs(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    model: Annotated[
        str, typer.Option(help="The weights, by folder or hub name; float32, needs the extra `check`.")
    ],
    max_p99: Annotated[float | None, typer.Option(help="Fail where a turn's p99 is above this.")] = None,
    max_: Annotated[float | None, typer.Option("--max", help="Fail where a token is off by more.")] = None,
) -> None:
    """Teacher-force each recorded sequence and compare the logprobs, in nats, per turn.

    Writes logprob_check.json into the run, and the report anew with its plot.
    """
    with exits():
        read_manifest(run)
        found = asyncio.run(check_run(run, Weights(model)))
        found.write(run)
        report = write_report(run, decode=_decoder(model))
    for reason, tokens in found.skipped.items():
        warn(f"{tokens:,} tokens are not compared: {reason}")
    if not found.compared:
        fail(f"{run} holds no logprob that can be recomputed", FAILED)
    for origin in found.origins:
        out.print(_table(origin))
        out.print(f"  farthest off: {_place(origin)}\n", soft_wrap=True)
    out.print(f"{found.compared:,} logprobs compared with {found.teacher}; report {report}", soft_wrap=True)
    _hold(found, max_p99, max_)


def _decoder(tokenizer: str) -> Callable[[Sequence[int]], list[str]] | None:
    """How the report shows single tokens; ids where the weights come without a tokenizer."""
    try:
        renderer = Renderer.load(tokenizer)
    except RenderError as error:
        warn(f"the report shows ids instead of tokens: {error}")
        return None
    return lambda ids: visible_pieces(renderer.token_bytes(ids))


def _table(found: OriginCheck) -> Table:
    origin = found.origin
    title = f"ids {origin.provenance}, logprobs {origin.logprob_provenance} ({origin.logprob_mode})"
    table = Table("turn", title=f"|recorded - recomputed|, {title}", title_justify="left", box=None)
    for name in ("tokens", "median", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    for turn, held in found.turns.items():
        table.add_row(str(turn), *_figures(held))
    table.add_row("all", *_figures(found.overall), style="bold")
    return table


def _figures(held: Distribution) -> list[str]:
    return [f"{held.count:,}", *(f"{value:.1e}" for value in (held.median, held.p90, held.p99, held.max))]


def _place(found: OriginCheck) -> str:
    worst = found.overall.worst
    return (
        f"item {worst.item_id}, repetition {worst.repetition}, rollout {worst.rollout_id}, "
        f"sequence {worst.sequence_index}, turn {worst.step_number}, token {worst.token_index} "
        f"(id {worst.token_id}): recorded {worst.recorded:.6f}, recomputed {worst.recomputed:.6f}"
    )


def _hold(found: LogprobCheck, max_p99: float | None, max_: float | None) -> None:
    """Exit 1 with every bound that is exceeded, by turn."""
    broken: list[str] = []
    for origin in found.origins:
        for turn, held in origin.turns.items():
            for name, value, bound in (("p99", held.p99, max_p99), ("max", held.max, max_)):
                if bound is not None and not value <= bound:
                    broken.append(f"turn {turn}: {name} {value:.1e} is above {bound:g}")
    if broken:
        fail("; ".join(broken), FAILED)
