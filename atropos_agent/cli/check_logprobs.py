"""`check-logprobs`: compare the recorded logprobs of a run with those recomputed from the weights."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
from pydantic import JsonValue
from rich.table import Table

from atropos_agent.cli.console import FAILED, WRONG_INPUT, exits, fail, out, warn
from atropos_agent.config import load_run_config
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.environment.opening import build_policy
from atropos_agent.errors import RenderError
from atropos_agent.lint.vocabulary import recorded_renderer
from atropos_agent.logprob_check import Distribution, LogprobCheck, OriginCheck, Server, Weights, check_run
from atropos_agent.policy import HttpPolicy
from atropos_agent.record import read_manifest
from atropos_agent.renderer import Renderer
from atropos_agent.sinks.report import visible_pieces, write_report

EPILOG = """Examples:

atropos-agent check-logprobs runs/terminal-tasks --model Qwen/Qwen3-8B

atropos-agent check-logprobs runs/terminal-tasks --server http://127.0.0.1:8000/v1 --max-p99 1e-3 --max 0.1
"""


def check_logprobs(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    model: Annotated[
        str | None, typer.Option(help="The weights, by folder or hub name; float32, needs the extra `check`.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="A server with the same weights that returns prompt logprobs.")
    ] = None,
    max_p99: Annotated[float | None, typer.Option(help="Fail if the p99 of a turn is above this.")] = None,
    max_: Annotated[
        float | None, typer.Option("--max", help="Fail if the difference at any token is above this.")
    ] = None,
) -> None:
    """Teacher-force each recorded sequence and compare the logprobs, in nats, per turn.

    Writes logprob_check.json into the run, and updates the report with a plot.
    """
    with exits():
        if (model is None) == (server is None):
            fail("give either --model or --server", WRONG_INPUT)
        recorded = cast("dict[str, JsonValue]", read_manifest(run).get("config") or {})
        asked = _by_server(run, recorded, server) if server else check_run(run, Weights(model or ""))
        found = asyncio.run(asked)
        found.write(run)
        report = write_report(run, decode=_decoder(run, model))
    for reason, tokens in found.skipped.items():
        warn(f"{tokens:,} tokens are not compared: {reason}")
    if not found.compared:
        fail(f"{run} has no logprobs that can be recomputed", FAILED)
    for origin in found.origins:
        out.print(_table(origin))
        out.print(f"  largest difference: {_place(origin)}\n", soft_wrap=True)
    out.print(f"{found.compared:,} logprobs compared with {found.teacher}; report {report}", soft_wrap=True)
    _hold(found, max_p99, max_)


async def _by_server(run: Path, recorded: dict[str, JsonValue], url: str) -> LogprobCheck:
    """Check with the server at `url`. Other settings (key, model) come from the run and the environment."""
    config = load_run_config(None, [f"--policy.base_url={url}"], defaults=recorded)
    policy = build_policy(config.policy)
    assert isinstance(policy, HttpPolicy)
    async with policy:
        return await check_run(run, Server(policy, url))


def _decoder(run: Path, model: str | None) -> Callable[[Sequence[int]], list[str]] | None:
    """The text of single tokens for the report. None if neither the run nor the weights have a tokenizer: the
    report then shows ids."""
    renderer = recorded_renderer(run)
    if renderer is None and model is not None:
        with contextlib.suppress(RenderError):
            renderer = Renderer.load(model, marks=HERMES_MARKS)
    return None if renderer is None else lambda ids: visible_pieces(renderer.token_bytes(ids))


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
    """Exit with 1 and list every exceeded bound, by turn."""
    broken: list[str] = []
    for origin in found.origins:
        for turn, held in origin.turns.items():
            for name, value, bound in (("p99", held.p99, max_p99), ("max", held.max, max_)):
                if bound is not None and not value <= bound:  # negated, so that NaN fails too
                    broken.append(f"turn {turn}: {name} {value:.1e} is above {bound:g}")
    if broken:
        fail("; ".join(broken), FAILED)
