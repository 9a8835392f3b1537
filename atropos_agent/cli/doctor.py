"""`doctor`: examine a server, a chat template or the sandboxes, and say what to do next."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from atropos_agent.cli.console import FAILED, WRONG_INPUT, exits, fail, out
from atropos_agent.cli.findings import show, show_sandboxes
from atropos_agent.config import DebugSettings, PolicyConfig, load_policy_config
from atropos_agent.dialects.hermes import HERMES_MARKS
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

atropos-agent doctor --sandbox

atropos-agent doctor --sandbox --backend bubblewrap
"""
STYLES = {Grade.GOOD: "bold green", Grade.LOSS: "bold yellow", Grade.BAD: "bold red"}


def doctor(
    server: Annotated[str | None, typer.Argument(help="The address of an inference server.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="A folder or hub name; default: the model's.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, if the server serves several.")] = None,
    template: Annotated[
        str | None, typer.Option(help="A tokenizer, or a .jinja file with --tokenizer, to certify.")
    ] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Try the sandboxes of this machine.")] = False,
    backend: Annotated[
        str | None, typer.Option(help="With --sandbox: one backend; default: all of them.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="With --sandbox: what docker and podman run.")] = None,
) -> None:
    """Examine a server, a chat template or this machine's sandboxes. Prints a verdict and what to do next.

    Exits with 0 if it is usable, also with loss; with 1 if it is not; with 2 for wrong input.
    """
    with exits():
        if (server is not None) + (template is not None) + sandbox != 1:
            fail("give either the address of a server, --template SOURCE or --sandbox", WRONG_INPUT)
        if (backend is not None or image is not None) and not sandbox:
            fail("--backend and --image are for --sandbox", WRONG_INPUT)
        if sandbox and (tokenizer is not None or model is not None):
            fail("--tokenizer and --model are for a server or a template; a sandbox has none", WRONG_INPUT)
        if template is not None and model is not None:
            fail("--model names what a server serves; a template is that of its tokenizer", WRONG_INPUT)
        logging.getLogger("atropos_agent.policy").setLevel(logging.ERROR)  # each failure has its own line
        if sandbox:
            verdict = asyncio.run(show_sandboxes(backend, image))
        elif template is not None:
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
            show(check)
            checks.append(check)
    tokens = "; ".join(check.text for check in checks if check.name in ("tokens", "logprobs"))
    named = {"base_url": config.base_url, "model": config.model, "tokenizer": config.tokenizer}
    settings = " ".join(f"--policy.{key}={value}" for key, value in named.items() if value is not None)
    return judge(checks, tokens, redact(f"atropos-agent collect CONFIG.yaml {settings}"))


def _certificate(template: str, tokenizer: str | None) -> Verdict:
    checks: list[Check] = []
    for check in examine_template(_renderer(template, tokenizer)):
        show(check)
        checks.append(check)
    return judge(checks, checks[0].text, "nothing to do: agent.history=append (the default) is exact")


def _renderer(template: str, tokenizer: str | None) -> Renderer:
    try:
        if not template.endswith(".jinja"):
            if tokenizer is not None:
                fail(f"{template} brings its own tokenizer; --tokenizer is for a .jinja file", WRONG_INPUT)
            return Renderer.load(template, marks=HERMES_MARKS)
        if tokenizer is None:
            fail("a .jinja file needs the tokenizer it is for: --tokenizer FOLDER_OR_NAME", WRONG_INPUT)
        return Renderer.load(tokenizer, marks=HERMES_MARKS, chat_template=_read(Path(template)))
    except RenderError as error:
        raise ConfigError(f"--template: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the template {path}: {error}") from error
