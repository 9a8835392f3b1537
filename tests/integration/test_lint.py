"""What the shipped model really samples, through a real sandbox: nothing in it is an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shipped_model import model_folder

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))
QUICKSTART = str(Path("configs/terminal_tasks/quickstart.yaml").resolve())
OF_A_SURE_POLICY = {"duplicate-in-group", "duplicate-in-file", "zero-variance", "decode-encode-drift"}
"""A small model says the same thing twice, and samples ids that are not the tokenizer's own choice."""


def cli(*arguments, cwd):
    command = [COMMAND, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)


def test_a_collected_run_has_no_error(tmp_path):
    model_folder()
    size = ["--collect.groups=3", "--env.group_size=4", "--agent.max_tokens=64"]
    collected = cli("collect", QUICKSTART, *size, cwd=tmp_path)
    assert collected.returncode == 0, collected.stderr
    done = cli("lint", "runs/quickstart", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {json.loads(line)["code"] for line in done.stdout.splitlines()} <= OF_A_SURE_POLICY
    shown = cli("lint", "runs/quickstart", cwd=tmp_path)
    assert "trajectories 12  files 1  errors 0" in shown.stdout
