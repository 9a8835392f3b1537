"""`lint`: report defects in recorded trajectories, one line per finding."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from atropos_agent.cli.console import FAILED, WRONG_INPUT, exits, fail, out, warn
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.errors import ConfigError, RenderError
from atropos_agent.lint import Finding, Linter, Severity, Source, Vocabulary, sources
from atropos_agent.renderer import Renderer

SHOWN_PER_CODE = 10

EPILOG = """Examples:

atropos-agent lint runs/quickstart

atropos-agent lint groups.jsonl others.jsonl --tokenizer Qwen/Qwen3-4B --json
"""


def lint(
    files: Annotated[
        list[Path], typer.Argument(help="Run directories, folders, or Atropos-style JSONL files.")
    ],
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder or hub name; default: the tokenizer that a run records.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All findings, one JSON object per line.")] = False,
) -> None:
    """Check recorded trajectories for defects. Exits with 1 if there is any error."""
    with exits():
        vocabulary = None if tokenizer is None else _vocabulary(tokenizer)
        linters = [Linter(source) for path in files for source in _sources(path, vocabulary)]
    counts: Counter[Severity] = Counter()
    for linter in linters:
        found = _counted(_readable(linter), counts)
        for text in _as_json(found) if as_json else _as_text(found):
            # past rich, which would read markup in the text and wrap it
            out.file.write(f"{_printable(text)}\n")
    if not as_json:
        _summarise(linters, counts)
    raise typer.Exit(FAILED if counts[Severity.ERROR] else 0)


def _vocabulary(source: str) -> Vocabulary:
    try:
        return Vocabulary.of(Renderer.load(source, marks=HERMES_MARKS))
    except RenderError as error:
        raise ConfigError(f"--tokenizer: {error}") from error


def _sources(path: Path, vocabulary: Vocabulary | None) -> list[Source]:
    found = sources(path, vocabulary)
    for source in found:
        try:
            source.path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{source.path} cannot be read: {error.strerror}") from error
    return found


def _readable(linter: Linter) -> Iterator[Finding]:
    try:
        yield from linter.run()
    except OSError as error:
        fail(f"{linter.file} cannot be read: {error.strerror or error}", WRONG_INPUT)


def _counted(found: Iterable[Finding], counts: Counter[Severity]) -> Iterator[Finding]:
    for finding in found:
        counts[finding.severity] += 1
        yield finding


def _as_json(found: Iterable[Finding]) -> Iterator[str]:
    for finding in found:
        yield json.dumps(finding.as_json())  # not orjson: only this escapes lone surrogates in a file's name


def _as_text(found: Iterable[Finding]) -> Iterator[str]:
    """The first SHOWN_PER_CODE findings of each kind, then how many more there are in the file."""
    kinds: Counter[str] = Counter()
    file = ""
    for finding in found:
        kinds[finding.code] += 1
        file = finding.file
        if kinds[finding.code] <= SHOWN_PER_CODE:
            yield str(finding)
    for code, count in kinds.items():
        if count > SHOWN_PER_CODE:
            yield f"{file}: {count - SHOWN_PER_CODE} more of {code} ({count} in all)"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _summarise(linters: list[Linter], counts: Counter[Severity]) -> None:
    for text in dict.fromkeys(text for linter in linters for text in linter.skipped):
        warn(f"skipped: {text}")
    trajectories = sum(linter.trajectories for linter in linters)
    errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
    out.print(
        f"trajectories {trajectories}  files {len(linters)}  errors {errors}  warnings {warnings}",
        highlight=False,
    )
