import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atropos_agent.config import DEBUG_VARIABLES, GENERIC_VARIABLES, SERVER_VARIABLES
from atropos_agent.policy.embedded import EMBEDDED_MODEL
from atropos_agent.testing import FakeServer, TokenizerCodec

README = Path("README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs_as_it_stands(tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    (tmp_path / "configs").symlink_to(Path("configs").resolve())
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_the_environment_example_scores_a_rollout(tmp_path):
    (tmp_path / "spell.py").write_text(BLOCKS[1])
    code = """
import asyncio
from spell import Spell
from atropos_agent.testing import FakePolicy
from atropos_agent.dialects.hermes import render_call
from tests.tokenizers_for_tests import chatml_renderer

async def main():
    renderer = chatml_renderer()
    script = [render_call("terminal", {"command": "printf tac > answer.txt"}), "done"]
    policy = FakePolicy(script, renderer, stop_id=int(renderer.certificate.close_ids[0]))
    async with Spell(policy, renderer) as env:
        print((await env.rollout(await env.get_next_item())).score)

asyncio.run(main())
"""
    code = code.replace(
        "import asyncio\n", f"import asyncio, sys\nsys.path[:0] = [{str(tmp_path)!r}, '.']\n", 1
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "1.0", done.stderr


async def test_the_agent_example_takes_three_turns(capsys):
    space: dict[str, Any] = {}
    exec(BLOCKS[2], space)
    tokenizer = EMBEDDED_MODEL / "tokenizer.json"
    codec = TokenizerCodec(tokenizer)
    async with FakeServer(
        lambda ask: f"answer {ask.turn}", codec, stop_id=codec.token_id("<|im_end|>")
    ) as server:
        await space["converse"](server.url, str(tokenizer.parent))
    *answers, total = capsys.readouterr().out.splitlines()
    assert len(answers) == 3
    assert total.endswith("sampled tokens")


def test_the_readme_lists_every_environment_variable():
    known = {*DEBUG_VARIABLES, *SERVER_VARIABLES.values()}
    known |= {name for names in GENERIC_VARIABLES.values() for name in names}
    assert {name for name in known if f"`{name}`" not in README} == set()
