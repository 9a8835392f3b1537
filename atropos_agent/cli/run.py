"""`run`: run one agent and print each step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic import JsonValue
from rich.markup import escape
from rich.panel import Panel

from atropos_agent.cli.console import FAILED, WRONG_INPUT, exits, fail, out
from atropos_agent.config import DebugSettings, RunConfig, load_run_config
from atropos_agent.environment import AgentEnv, open_environment
from atropos_agent.environment.sandboxes import for_tools
from atropos_agent.events import Event, EventType
from atropos_agent.telemetry import dump_on_signal, watching
from atropos_agent.toolset import ToolContext
from atropos_agent.trajectory import AgentResult, Rollout

EPILOG = """Examples:

atropos-agent run --item count_lines/1/7

atropos-agent run "Which files here are larger than 1 MB?" --policy.base_url=http://127.0.0.1:8000/v1

atropos-agent run --item count_lines/2/7 --config my.yaml
"""
DEFAULTS: dict[str, JsonValue] = {
    "environment": "terminal_tasks",
    "policy": "embedded",
    "agent": {"max_steps": 8, "max_tokens": 256},
}
EMBEDDED_DEFAULTS: dict[str, JsonValue] = {**DEFAULTS, "env": {"prompt": "short"}}
"""With the prompt that the embedded policy was trained with. Other models get the full prompt."""


def run(
    context: typer.Context,
    task: Annotated[str | None, typer.Argument(help="The task, as text.")] = None,
    item: Annotated[str | None, typer.Option(help="An item of the environment, to be scored.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file; default: the embedded policy.")] = None,
) -> None:
    """Run one agent in a sandbox and print each step."""
    with exits():
        if (task is None) == (item is None):
            fail("give either a task as text or --item ID, e.g. --item count_lines/1/7", WRONG_INPUT)
        settings = _settings(config, context.args)
        if task is not None and settings.policy.kind == "embedded":
            fail(
                "the embedded policy is a tiny model trained on generated shell tasks only; it cannot follow "
                "free text. Run it on an item (--item count_lines/1/7), or name a server: "
                "--policy=http://127.0.0.1:8000/v1",
                WRONG_INPUT,
            )
        code = asyncio.run(_run(settings, task, item))
    raise typer.Exit(code)


def _settings(config: Path | None, overrides: Sequence[str]) -> RunConfig:
    if config is not None:
        return load_run_config(config, overrides)
    # read twice: which policy it is, and so which prompt, is known only after the overrides
    settings = load_run_config(None, overrides, defaults=DEFAULTS)
    if settings.policy.kind == "embedded" and settings.environment == DEFAULTS["environment"]:
        return load_run_config(None, overrides, defaults=EMBEDDED_DEFAULTS)
    return settings


async def _run(settings: RunConfig, task: str | None, item_id: str | None) -> int:
    with watching(DebugSettings.from_environ().stall_after_s) as watchdog, dump_on_signal(watchdog):
        async with open_environment(settings) as env:
            return await _run_in(env, task, item_id)


async def _run_in(env: AgentEnv[Any], task: str | None, item_id: str | None) -> int:
    if item_id is not None:
        item = await env.get_item(item_id)
        out.print(Panel(escape(env.build_task(item)), title=item.id, title_align="left"))
        rollout = await env.rollout(item, listeners=[_show])
        return _end(rollout.result, rollout)
    assert task is not None
    return _end(await _free_task(env, task), None)


async def _free_task(env: AgentEnv[Any], task: str) -> AgentResult:
    async with env.sandbox() as sandbox:
        context = ToolContext(sandbox=for_tools(sandbox), rollout_id="run")
        return await env.agent.run(task, context=context, rollout_id="run", listeners=[_show])


def _show(event: Event) -> None:
    data = event.data
    if event.type is EventType.COMPLETION_FINISHED:
        title = f"step {event.step_number}"
        out.print(Panel(escape(str(data["text"])), title=title, title_align="left", border_style="cyan"))
    elif event.type is EventType.TOOL_FINISHED:
        text = f"{data['output']}\n{data['error']}".strip() or "(no output)"
        out.print(Panel(escape(text), border_style="green" if data["success"] else "red"))
    elif event.type is EventType.STEP_FINISHED:
        for error in cast("list[str]", data["parse_errors"]):
            out.print(f"[yellow]not a call:[/] {escape(error)}")


def _end(result: AgentResult, rollout: Rollout | None) -> int:
    out.print(
        f"[bold]{result.stop_reason}[/] after {result.num_steps} steps, {result.total_tokens} sampled tokens"
    )
    if rollout is not None and rollout.score is not None:
        parts = ", ".join(f"{name} {value:g}" for name, value in rollout.parts.items())
        out.print(f"reward [bold]{rollout.score:g}[/]" + (f" ({parts})" if parts else ""))
    if result.error is not None:
        fail(f"{result.error_type}: {result.error}", FAILED)
    return 0
