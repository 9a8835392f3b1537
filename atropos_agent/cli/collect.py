"""`collect`: collect scored groups into a run directory; progress display, clean stop, resume."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic import JsonValue
from rich.table import Table

from atropos_agent.cli.console import FAILED, INTERRUPTED, WRONG_INPUT, complain, exits, fail, out, warn
from atropos_agent.cli.in_flight import InFlightView
from atropos_agent.cli.progress import duration, shown
from atropos_agent.collect import Collector, Progress
from atropos_agent.config import DebugSettings, RunConfig, load_run_config
from atropos_agent.environment import AgentEnv, open_environment
from atropos_agent.errors import RecordError
from atropos_agent.policy.protocol import Capabilities, Wire
from atropos_agent.record import RunDir, manifest, read_manifest
from atropos_agent.record.rundir import FLIGHT
from atropos_agent.sinks.report import visible_pieces, write_report
from atropos_agent.sinks.summary import RunSummary, summarise
from atropos_agent.telemetry import Entry, Kind, Watchdog, dump_on_signal, watching
from atropos_agent.trajectory import LogprobMode, Provenance

EPILOG = """Examples:

atropos-agent collect configs/terminal_tasks/quickstart.yaml

atropos-agent collect my.yaml --env.group_size=4 --collect.groups=100 --policy.base_url=http://127.0.0.1:8000/v1

atropos-agent collect --resume runs/quickstart
"""


def collect(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="A YAML file; see configs/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Resume this run directory.")] = None,
) -> None:
    """Collect scored groups of rollouts into a run directory.

    Any key of the config can be set on the command line: --section.key=value.
    """
    with exits():
        if (config is None) == (resume is None):
            fail("give either a config or --resume RUN_DIRECTORY", WRONG_INPUT)
        if resume is not None:
            recorded = cast("dict[str, JsonValue]", read_manifest(resume)["config"])
            run, path = load_run_config(None, context.args, defaults=recorded), resume
        else:
            assert config is not None
            run = load_run_config(config, context.args)
            path = _free(run.collect.runs_dir / run.name)
        code = asyncio.run(_collect(run, path, resumed=resume is not None))
    raise typer.Exit(code)


async def _collect(config: RunConfig, path: Path, *, resumed: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    stopping = Entry(Kind.SHUTDOWN, "collect")

    def stop() -> None:
        stopping.__enter__()  # by hand: it stays in the in-flight table until everything is closed
        task.cancel()

    # handlers instead of KeyboardInterrupt: SIGTERM gets the same clean stop
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    with watching(DebugSettings.from_environ().stall_after_s) as watchdog, dump_on_signal(watchdog):
        return await _opened(config, path, watchdog, stopping, resumed=resumed)


async def _opened(
    config: RunConfig, path: Path, watchdog: Watchdog | None, stopping: Entry, *, resumed: bool
) -> int:
    """Open everything and collect. `stopping` is in the in-flight table while everything closes."""
    opened = False
    try:
        async with open_environment(config) as env:
            capabilities = await env.policy.probe()
            _warn_of_inexact(env, capabilities)
            record = manifest(config, capabilities.model)
            with (
                RunDir.open(path, record) if resumed else RunDir.create(path, record) as log,
                nullcontext() if watchdog is None else watchdog.recording(path / FLIGHT),
            ):
                opened = True
                collector = Collector(env, log, config.collect)
                code = await _until_done(collector, path, env, InFlightView(watchdog))
            stopping.__enter__()
            return code
    except asyncio.CancelledError:
        if not opened:
            out.print("stopped before anything was collected")
        return INTERRUPTED
    finally:
        stopping.__exit__(None, None, None)


async def _until_done(
    collector: Collector[Any], path: Path, env: AgentEnv[Any], in_flight: InFlightView
) -> int:
    """Collect and return the exit code. Always shows what was recorded and how to resume, also after an error
    or an interrupt."""
    progress, finished, shortfalls = collector.progress, False, list[str]()
    try:
        async with shown(progress, env.sandbox_config.slots, in_flight):
            await collector.run()
        finished = True
    except asyncio.CancelledError:
        _take_interrupt()
    finally:
        shortfalls = _summarise(progress, path, await _reported(path, env))
        if not finished or progress.groups_failed:
            out.print(f"resume with: [bold]atropos-agent collect --resume {path}[/]", soft_wrap=True)
    if not finished:
        return INTERRUPTED
    for shortfall in shortfalls:
        complain(shortfall)
    return FAILED if shortfalls else 0


async def _reported(path: Path, env: AgentEnv[Any]) -> str:
    """Write the report; its path, or "none"."""
    try:  # a failed report must not hide how the run ended
        return str(await asyncio.to_thread(write_report, path, decode=_decoder(env)))
    except (RecordError, OSError) as error:
        warn(f"no report: {error}")
    except asyncio.CancelledError:
        _take_interrupt()
        warn("the report was interrupted")
    return "none"


def _take_interrupt() -> None:
    """Clear the cancellation, so that later awaits of this task work."""
    if (task := asyncio.current_task()) is not None:
        task.uncancel()


def _decoder(env: AgentEnv[Any]) -> Callable[[Sequence[int]], list[str]] | None:
    """The text of single tokens for the report; None without a renderer."""
    renderer = env.renderer
    return None if renderer is None else lambda ids: visible_pieces(renderer.token_bytes(ids))


def _warn_of_inexact(env: AgentEnv[Any], capabilities: Capabilities) -> None:
    """Warn of inexact tokens, logprobs or isolation before any token is sampled."""
    wire, mode, agent = capabilities.wire, capabilities.logprob_mode, env.agent_config
    neutral = agent.temperature == 1.0 and agent.top_p == 1.0 and not agent.top_k and not agent.min_p
    if not wire.gives_ids:
        logprobs = "have no logprobs" if agent.rescore == "off" else "rescored"
        warn(f"{capabilities.server} gives no token ids: tokens will be retokenized and {logprobs}")
    elif not wire.takes_ids:
        warn(f"{capabilities.server} renders the prompts itself: prompt ids are those that it reports")
    if wire.gives_ids and mode is LogprobMode.RAW and not neutral:
        warn("logprobs are the model's own, not those of the sampling distribution: exporters leave them out")
    if wire.gives_ids and mode is LogprobMode.UNKNOWN:
        warn("it is not known whether logprobs are raw or of the sampling distribution")
    _warn_of_branches(env, wire)
    if env.isolation["unsafe"]:
        warn("UNSAFE: commands the model writes run on this machine without a sandbox")


def _warn_of_branches(env: AgentEnv[Any], wire: Wire) -> None:
    """Warn that whole groups may be refused, if the template can rewrite history."""
    stable = env.renderer is None or env.renderer.certificate.history_stable
    rendered_anew = env.agent_config.history == "template" or not (wire.takes_ids or wire.takes_text)
    if rendered_anew and not stable and env.config.on_branch == "refuse":
        warn(
            "the chat template rewrites history: a rollout may then have several training sequences, and"
            " env.on_branch=refuse drops its whole group; choose last or drop"
        )


def _free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist: nothing is ever overwritten."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _summarise(progress: Progress, path: Path, report: str) -> list[str]:
    """Show the summary of the whole run, read from its log. Returns its shortfalls."""
    try:
        run = summarise(path)
    except (RecordError, OSError) as error:
        warn(f"no summary: {error}")
        return [f"the record cannot be read: {error}"]
    out.print(_table(run, progress, path, report))
    return run.shortfalls(progress.groups_total)


def _table(run: RunSummary, progress: Progress, path: Path, report: str) -> Table:
    """The summary: totals of the record from `run`; failures and times of this session from `progress`."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    resumed = f" ({progress.groups_resumed} from before)" if progress.groups_resumed else ""
    table.add_row("groups", f"{run.groups} of {progress.groups_total}{resumed}")
    table.add_row("mixed rewards", f"{run.mixed_groups} of {run.groups}")
    if progress.groups_failed:
        table.add_row("incomplete groups", str(progress.groups_failed))
    if run.groups_without_data:
        table.add_row("without data", f"{run.groups_without_data}: {_listed(run.dropped)}")
    table.add_row("rollouts", str(run.rollouts))
    table.add_row("mean reward", "-" if run.mean_score is None else f"{run.mean_score:.3f}")
    table.add_row("sampled tokens", f"{sum(run.tokens):,} ({progress.tokens_per_s:,.0f} a second)")
    untrained = f" (none in {run.untrained_groups} groups)" if run.untrained_groups else ""
    table.add_row("trained tokens", f"{run.trained_tokens:,}{untrained}")
    if run.breaks:
        table.add_row("prefix breaks", f"{run.breaks.total()}: {_listed(run.breaks)}")
    if run.sequences_left_out:
        table.add_row("left out", f"{run.sequences_left_out} sequences (env.on_branch)")
    steps = run.steps_by_provenance
    if steps:
        table.add_row("ids as sampled", f"{steps[Provenance.SAMPLED] / steps.total():.1%} of steps")
    table.add_row("ended by", _listed(run.stop_reasons))
    if progress.errors:
        table.add_row("errors", _listed(progress.errors))
    table.add_row("took", duration(progress.elapsed_s))
    table.add_row("record", str(path))
    table.add_row("report", report)
    return table
