"""`doctor`: what is wrong with a server or a chat template, and what to do next."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from atropos_agent.cli.console import FAILED, WRONG_INPUT, exits, fail, out
from atropos_agent.config import DebugSettings, PolicyConfig, load_policy_config
from atropos_agent.doctor import Check, Grade, Verdict, examine_server, examine_template, judge
from atropos_agent.errors import ConfigError, RenderError
from atropos_agent.policy import HttpPolicy
from atropos_agent.renderer import Renderer
from atropos_agent.telemetry import redact

EPILOG = """Examples:

atropos-agent doctor http://127.0.0.1:8000/v1

atropos-agent doctor http://127.0.0.1:8080 --tokenizer Qwen/Qwen3-4B

atropos-agent doctor --template Qwen/Qwen3-4B

atropos-agent doctor --template mine.jinja --tokenizer Qwen/Qwen3-4B
"""
MARKS = {Grade.GOOD: "[green]ok[/]  ", Grade.LOSS: "[yellow]loss[/]", Grade.BAD: "[red]bad[/] "}
MARKS[Grade.UNKNOWN] = "[dim]?[/]   "
STYLES = {Grade.GOOD: "bold green", Grade.LOSS: "bold yellow", Grade.BAD: "bold red"}


def doctor(
    server: Annotated[str | None, typer.Argument(help="The address of an inference server.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="A folder or hub name; default: the model's.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, where the server serves several.")] = None,
    template: Annotated[
        str | None, typer.Option(help="A tokenizer, or a .jinja file with --tokenizer, to certify.")
    ] = None,
) -> None:
    """Examine a server or a chat template; ends with a verdict and the next act.

    Exit 0 where it can be used, also with loss; 1 where it cannot; 2 for wrong input.
    """
    with exits():
        if (server is None) == (template is None):
            fail("give either the address of a server or --template SOURCE", WRONG_INPUT)
        if template is not None and model is not None:
            fail("--model names what a server serves; a template is that of its tokenizer", WRONG_INPUT)
        logging.getLogger("atropos_agent.policy").setLevel(logging.ERROR)  # each failure has its own line
        if template is not None:
            verdict = _certificate(template, tokenizer)
        else:
            assert server is not None
            verdict = asyncio.run(_server(load_policy_config(server, tokenizer=tokenizer, model=model)))
    out.print(f"\n[{STYLES[verdict.grade]}]{escape(verdict.text)}[/]", soft_wrap=True)
    if verdict.act:
        out.print(f"next: {escape(verdict.act)}", soft_wrap=True)
    raise typer.Exit(FAILED if verdict.grade is Grade.BAD else 0)


async def _server(config: PolicyConfig) -> Verdict:
    key = None if config.api_key is None else config.api_key.get_secret_value()
    checks: list[Check] = []
    async with HttpPolicy(
        config.base_url,
        model=config.model,
        api_key=key,
        connect_timeout_s=config.connect_timeout_s,
        max_attempts=2,
        debug=DebugSettings.from_environ(),
    ) as policy:
        async for check in examine_server(config, policy):
            _show(check)
            checks.append(check)
    tokens = "; ".join(check.text for check in checks if check.name in ("tokens", "logprobs"))
    named = {"base_url": config.base_url, "model": config.model, "tokenizer": config.tokenizer}
    settings = " ".join(f"--policy.{key}={value}" for key, value in named.items() if value is not None)
    return judge(checks, tokens, redact(f"atropos-agent collect CONFIG.yaml {settings}"))


def _certificate(template: str, tokenizer: str | None) -> Verdict:
    checks: list[Check] = []
    for check in examine_template(_renderer(template, tokenizer)):
        _show(check)
        checks.append(check)
    return judge(checks, checks[0].text, "nothing to do: agent.history=append (the default) is exact")


def _renderer(template: str, tokenizer: str | None) -> Renderer:
    try:
        if not template.endswith(".jinja"):
            if tokenizer is not None:
                fail(f"{template} brings its own tokenizer; --tokenizer is for a .jinja file", WRONG_INPUT)
            return Renderer.load(template)
        if tokenizer is None:
            fail("a .jinja file needs the tokenizer it is for: --tokenizer FOLDER_OR_NAME", WRONG_INPUT)
        return Renderer.load(tokenizer, chat_template=_read(Path(template)))
    except RenderError as error:
        raise ConfigError(f"--template: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the template {path}: {error}") from error


def _show(check: Check) -> None:
    out.print(f"{MARKS[check.grade]} {check.name:<16} {escape(check.text)}", soft_wrap=True)
