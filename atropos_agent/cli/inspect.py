"""`env list`, `env validate`, `env check`, `tools list`: list plugins and check environments."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from atropos_agent.cli.console import FAILED, exits, fail, out
from atropos_agent.config import EnvConfig, SandboxConfig, validate
from atropos_agent.environment import AgentEnv, Finding, Validation, check_environment
from atropos_agent.plugins import installed, load
from atropos_agent.testing import FakePolicy

env_app: typer.Typer = typer.Typer(no_args_is_help=True, help="List and check environments.")
tools_app: typer.Typer = typer.Typer(no_args_is_help=True, help="List installed tools.")


@env_app.command("list", epilog="Example: atropos-agent env list")
def list_environments() -> None:
    """List the installed environments."""
    _list("environments")


@tools_app.command("list", epilog="Example: atropos-agent tools list")
def list_tools() -> None:
    """List the installed tools."""
    _list("tools")


@env_app.command("validate", epilog="Example: atropos-agent env validate terminal_tasks --items 200")
def validate_environment(
    name: Annotated[str, typer.Argument(help="An installed environment, or package.module:Class.")],
    items: Annotated[int, typer.Option(min=1, help="How many items to check.")] = 200,
    seed: Annotated[int, typer.Option(help="The seed of the items.")] = 0,
    sandbox: Annotated[str, typer.Option(help="auto, native, bubblewrap or local (UNSAFE).")] = "auto",
) -> None:
    """Check items in a real sandbox: the reference solution must score 1, doing nothing 0."""
    with exits():
        where = validate(SandboxConfig, {"backend": sandbox}, source="--sandbox")
        found = asyncio.run(_validate(load("environments", name, expected=AgentEnv), items, seed, where))
        if not found:
            fail(f"{name} gave no items: nothing was checked", FAILED)
    broken = [validation for validation in found if not validation.holds]
    for validation in broken:
        out.print(
            f"[red]{validation.item_id}[/]: reference {validation.reference_score:g}, "
            f"nothing {validation.empty_score:g}"
        )
    out.print(f"{len(found) - len(broken)} of {len(found)} items hold")
    if broken:
        fail(f"{len(broken)} items of {name} do not hold", FAILED)


async def _validate(
    env_type: type[AgentEnv[Any]], items: int, seed: int, where: SandboxConfig
) -> list[Validation]:
    config: EnvConfig = env_type.config_type(seed=seed)
    async with env_type(FakePolicy([]), config=config, sandbox=where) as env:
        drawn = [item for _ in range(items) if (item := await env.get_next_item()) is not None]
        return await env.validate(drawn)


@env_app.command("check", epilog="Example: atropos-agent env check terminal_tasks")
def check(
    name: Annotated[str, typer.Argument(help="An installed environment, or package.module:Class.")],
    items: Annotated[int, typer.Option(min=1, help="How many items to check.")] = 4,
    seed: Annotated[int, typer.Option(help="The seed of the items.")] = 0,
    sandbox: Annotated[str, typer.Option(help="auto, native, bubblewrap or local (UNSAFE).")] = "auto",
) -> None:
    """Check the rules for any environment: seeded items, references, scores, no leaks."""
    with exits():
        where = validate(SandboxConfig, {"backend": sandbox}, source="--sandbox")
        env_type: type[AgentEnv[Any]] = load("environments", name, expected=AgentEnv)
        make = partial(env_type, config=env_type.config_type(seed=seed), sandbox=where)
        findings = asyncio.run(check_environment(make, items=items))
    _show(findings)
    if broken := sum(not finding.holds for finding in findings):
        fail(f"{broken} of {len(findings)} rules do not hold for {name}", FAILED)


def _show(findings: Sequence[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]holds[/]" if finding.holds else "[red]broken[/]"
        table.add_row(mark, finding.rule.value, escape(finding.detail))
    out.print(table)


def _list(kind: str) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold")
    table.add_column("what it is")
    table.add_column("from", style="dim")
    for name, point in installed("tools" if kind == "tools" else "environments").items():
        with exits():
            summary = (inspect.getdoc(point.load()) or "").partition("\n")[0]
            table.add_row(name, summary, point.dist.name if point.dist is not None else "")
    out.print(table)
