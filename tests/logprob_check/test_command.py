"""`check-logprobs` as a user types it, where torch is not installed or the run is none."""

import sys

import pytest
from typer.testing import CliRunner

from atropos_agent.cli import app
from atropos_agent.rundir import RunDir


@pytest.fixture
def without_torch(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def test_without_torch_the_extra_is_named(tmp_path, without_torch):
    RunDir.create(tmp_path / "run", {}).close()
    done = CliRunner().invoke(app, ["check-logprobs", str(tmp_path / "run"), "--model", "somewhere"])
    assert done.exit_code == 2
    assert "pip install 'atropos-agent[check]'" in done.stderr
    assert not (tmp_path / "run" / "logprob_check.json").exists()


def test_what_is_no_run_is_named(tmp_path):
    done = CliRunner().invoke(app, ["check-logprobs", str(tmp_path), "--model", "somewhere"])
    assert done.exit_code == 1
    assert "is no run" in done.stderr


def test_weights_or_a_server_must_be_named(tmp_path):
    done = CliRunner().invoke(app, ["check-logprobs", str(tmp_path)])
    assert done.exit_code == 2
    assert "either --model or --server" in done.stderr
