"""Every name that README and docs use exists where they say."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest
from typer.main import get_command

from atropos_agent.cli import app

PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
DOTTED = re.compile(r"\batropos_(?:agent|tools|environments)(?:\.[A-Za-z_]\w*)+(?![\w.]*\*)")
COMMAND = re.compile(r"\batropos-agent ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)")
TOP = "atropos_agent|docs|configs|scripts|tests|tools|environments|requirements"
FILE = re.compile(rf"`((?:{TOP})/[\w./-]+)`")
ENTRY_POINTS = {"atropos_agent.environments", "atropos_agent.tools", "atropos_agent.sinks"}


def cases(found):
    return sorted({(str(page), each) for page in PAGES for each in found(page.read_text())})


def imports(text):
    for block in PYTHON.findall(text):
        for node in ast.walk(ast.parse(_dedented(block))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("atropos_"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(text):
    for code in CODE.findall(text):
        yield from (name for name in DOTTED.findall(code) if name not in ENTRY_POINTS)


def commands(text):
    for code in CODE.findall(text):
        yield from COMMAND.findall(code)


def _dedented(block):
    return re.sub(r"^    ", "", block, flags=re.MULTILINE) if block.startswith("    ") else block


@pytest.mark.parametrize(("page", "name"), cases(imports) + cases(dotted))
def test_a_name_in_the_docs_is_importable_from_where_they_say(page, name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize(("page", "words"), cases(commands))
def test_a_command_in_the_docs_exists(page, words):
    found, first, *more = get_command(app), *words.split()
    found = found.commands[first]
    if more and hasattr(found, "commands"):
        assert more[0] in found.commands


@pytest.mark.parametrize(("page", "path"), cases(FILE.findall))
def test_a_file_in_the_docs_exists(page, path):
    assert Path(path).exists()


def test_the_test_finds_names_commands_and_files():
    assert len(cases(imports)) > 10
    assert len(cases(dotted)) > 2
    assert len(cases(commands)) > 10
