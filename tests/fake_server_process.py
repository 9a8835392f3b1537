"""A FakeServer in a process of its own, with a tokenizer that its ids belong to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tokenizers_for_tests import tokenizer_for


@contextmanager
def fake_server(folder: Path, *arguments: str, template: str = "chatml") -> Iterator[list[str]]:
    """Runs with `arguments` of `python -m atropos_agent.testing`; gives the overrides that name it."""
    tokenizer_for(template).save_pretrained(folder)
    command = [sys.executable, "-m", "atropos_agent.testing", "--tokenizer", str(folder), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        yield [f"--policy.base_url={url}", f"--policy.tokenizer={folder}"]
        process.stdin.close()
