"""A FakeServer in a process of its own, with a tokenizer that its ids belong to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tokenizers_for_tests import tokenizer_for

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))


@contextmanager
def fake_server(
    folder: Path, turns: Sequence[str] = ("done",), *, template: str = "chatml"
) -> Iterator[list[str]]:
    """Answers each session with `turns`; gives the overrides that name it. Its script lies in `folder`."""
    tokenizer_for(template).save_pretrained(folder)
    script = folder / "script.json"
    script.write_text(json.dumps({"tokenizer": str(folder), "turns": [*turns]}))
    with serving(script) as url:
        yield [f"--policy.base_url={url}", f"--policy.tokenizer={folder}"]


@contextmanager
def serving(script: Path) -> Iterator[str]:
    """The URL of `atropos-agent fake-server SCRIPT`, ended by the end of its input."""
    command = [COMMAND, "fake-server", str(script), "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
        assert process.wait(timeout=10) == 0
