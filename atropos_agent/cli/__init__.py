"""The command line: atropos-agent."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from dotenv import find_dotenv, load_dotenv

from atropos_agent.cli import check_logprobs as checking
from atropos_agent.cli import collect as collecting
from atropos_agent.cli import doctor as examining
from atropos_agent.cli import fake_server as faking
from atropos_agent.cli import lint as linting
from atropos_agent.cli import run as running
from atropos_agent.cli import seal as sealing
from atropos_agent.cli._overrides import OverridableCommand
from atropos_agent.cli.console import out
from atropos_agent.cli.inspect import env_app, tools_app
from atropos_agent.config import quiet_libraries

app: typer.Typer = typer.Typer(
    name="atropos-agent",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Collect RL trajectories of tool-using language models: exact tokens, real sandboxes, groups.",
)

app.command("collect", cls=OverridableCommand, epilog=collecting.EPILOG)(collecting.collect)
app.command("check-logprobs", epilog=checking.EPILOG)(checking.check_logprobs)
app.command("run", cls=OverridableCommand, epilog=running.EPILOG)(running.run)
app.command("lint", epilog=linting.EPILOG)(linting.lint)
app.command("seal", epilog=sealing.EPILOG)(sealing.seal)
app.command("doctor", epilog=examining.EPILOG)(examining.doctor)
app.command("fake-server", epilog=faking.EPILOG)(faking.fake_server)
app.add_typer(env_app, name="env")
app.add_typer(tools_app, name="tools")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"atropos-agent {version('atropos-agent')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    load_dotenv(find_dotenv(usecwd=True))  # without `usecwd` it searches from this file upwards
    quiet_libraries()


def main() -> None:
    """Entry point of the `atropos-agent` script.

    `package.module:Class` also finds modules in the working directory; installed modules take precedence.
    """
    sys.path.append(str(Path.cwd()))  # last: a local file must not hide an installed module
    app()
