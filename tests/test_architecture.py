"""docs/architecture.md against the code: its layers, and every path and name it mentions."""

import ast
import importlib.util
import pkgutil
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

import atropos_agent
from atropos_agent.cli import app
from atropos_agent.config import RunConfig

PAGE = Path("docs/architecture.md")
TEXT = PAGE.read_text()
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())
ROW = re.compile(r"^\| (\d+) \| (\(?)`(\w+)`\)? \| (.*?) ?\|$", re.MULTILINE)
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def contract() -> list[set[str]]:
    """The modules of each layer, those that may be missing in parentheses."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(found["layers"] for found in contracts if found.get("containers") == ["atropos_agent"])
    return [set(re.split(r" [|:] ", layer)) for layer in layers]


def layers_of(page: str) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    for number, reserved, name, _ in ROW.findall(page):
        found.setdefault(int(number), set()).add(f"({name})" if reserved else name)
    return [found.get(number, set()) for number in range(1, max(found) + 1)]


def modules() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(atropos_agent.__path__)} - {"__main__"}


@cache
def homes() -> dict[str, str]:
    """The module of each name that a module of the three packages defines at its top."""
    found: dict[str, str] = {}
    for root in (Path(), Path("tools"), Path("environments")):
        for file in sorted(root.glob("atropos_*/**/*.py")):
            module = ".".join(file.relative_to(root).with_suffix("").parts)
            for node in ast.parse(file.read_text()).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
                for target in targets:
                    name = getattr(target, "id", None) or getattr(target, "name", None)
                    if isinstance(name, str):
                        found.setdefault(name, module)
    return found


def is_setting(name: str) -> bool:
    kind: object = RunConfig
    for part in name.split("."):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields):
            return False
        kind = kind.model_fields[part].annotation
    return True


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def is_defined(name: str) -> bool:
    """True for a name at the top of a module, and for a member of one: `Run.turn`."""
    first, *rest = name.split(".")
    if first not in homes():
        return False
    found = getattr(importlib.import_module(homes()[first]), first)
    for part in rest:
        fields = getattr(found, "model_fields", {})
        if part in fields:
            return True
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def is_command(words: list[str]) -> bool:
    command = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            return False
    return True


def exists(span: str) -> bool:
    """Whether what stands in code style is a path, target, command, setting, module or name of ours."""
    if "/" in span or span in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        return Path(span.partition("<")[0]).exists()
    program, *words = span.split()
    if words and program == "make":
        return bool(re.search(rf"^{re.escape(words[0])}:", Path("Makefile").read_text(), re.MULTILINE))
    if words and program == "atropos-agent":
        return is_command(words)
    name = program.removesuffix(":")
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    reserved = {f"({name})"}
    return (
        is_defined(name)
        or is_setting(name)
        or is_module(name)
        or is_module(f"atropos_agent.{name}")
        or name in PROJECT["project"]["entry-points"]
        or any(reserved <= layer for layer in contract())
    )


def unknown_names(page: str) -> list[str]:
    """What the page mentions and is not there: code spans, words in CamelCase of a diagram, links."""
    prose = FENCE.sub("", page)
    spans = re.findall(r"`([^`\n]+)`", prose)
    drawn = re.findall(r"\b[A-Z][a-z]+[A-Za-z]*\b|\b\w+_\w+\b", "".join(FENCE.findall(page)))
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    missing = [span for span in [*spans, *drawn] if not exists(span)]
    return missing + [link for link in links if not (PAGE.parent / link).exists()]


def test_the_layers_are_those_of_the_import_contract() -> None:
    assert layers_of(TEXT) == contract()


def test_every_module_is_in_the_table_with_a_sentence_and_the_reserved_ones_do_not_exist() -> None:
    rows = ROW.findall(TEXT)
    assert {name for _, reserved, name, _ in rows if not reserved} == modules()
    assert not {name for _, reserved, name, _ in rows if reserved} & modules()
    assert all(bool(reserved) != sentence.endswith(".") for _, reserved, _, sentence in rows)


def test_every_path_and_name_of_the_page_exists() -> None:
    assert unknown_names(TEXT) == []


@pytest.mark.parametrize(
    "stale",
    [
        "`atropos_agent/agent/loop.py`",
        "`atropos_agent/gone/<name>/`",
        "`atropos_agent.agent.loop`",
        "`Looper`",
        "`Run.step_back`",
        "`PolicyConfig.wires`",
        "`agent.histories: append`",
        "`make coffee`",
        "`atropos-agent collects`",
        "`atropos_agent.renderers`",
        "[ADR](decisions/0000-none.md)",
        "\n```\nLooper\n```\n",
    ],
)
def test_a_name_that_is_gone_is_found(stale: str) -> None:
    assert len(unknown_names(f"{TEXT}\n{stale}")) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("| 8 | `agent` |", "| 9 | `agent` |"),
        ("| 2 | (`app`) |", "| 2 | `app` |"),
        ("| 14 | `errors` |", "| 14 | `error` |"),
        ("| 11 | `telemetry` |", "| 11 | telemetry |"),
    ],
)
def test_a_layer_that_differs_is_found(before: str, after: str) -> None:
    assert before in TEXT
    assert layers_of(TEXT.replace(before, after)) != contract()
