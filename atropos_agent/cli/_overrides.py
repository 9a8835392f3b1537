"""Config keys as options: `--section.key=value`, at any place among a command's own arguments."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import typer
from typer.core import TyperCommand

from atropos_agent.cli.console import WRONG_INPUT, fail
from atropos_agent.config import RunConfig


class OverridableCommand(TyperCommand):
    """A command that takes overrides of config keys (in `context.args`) and its own options, nothing else."""

    def parse_args(  # type: ignore[override]  # typer does not name the context it inherits from
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        """Take the overrides out of `args` and parse the rest. An unknown option exits with 2."""
        # not click's `ignore_unknown_options`: it would also accept misspelt options
        own = {name for option in self.get_params(ctx) for name in option.opts if name.startswith("-")}
        overrides = [argument for argument in args if is_override(argument)]
        rest = [argument for argument in args if not is_override(argument)]
        for argument in overrides:
            if "=" not in argument:
                fail(f"{argument} has no value: it is written {argument}=VALUE, without a space", WRONG_INPUT)
        for argument in rest:
            _require_known(argument, own)
        super().parse_args(ctx, rest)
        ctx.args = overrides
        return overrides


def is_override(argument: str) -> bool:
    """True for `--section.key...`, and for `--key...` if `key` is a top-level key of a config."""
    name = argument.removeprefix("--").partition("=")[0]
    return argument.startswith("--") and ("." in name or name in RunConfig.model_fields)


def _require_known(argument: str, own: Iterable[str]) -> None:
    name = argument.partition("=")[0]
    if not name.startswith("--") or name in own:
        return
    known = [*own, *(f"--{key}" for key in RunConfig.model_fields)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    fail(f"no option {name}{hint} Known here: {', '.join(sorted(known))}, --section.key=value", WRONG_INPUT)
