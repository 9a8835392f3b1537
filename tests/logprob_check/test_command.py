"""`check-logprobs` as a user types it."""

import asyncio
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from atropos_agent.cli import app
from atropos_agent.policy.protocol import Wire
from atropos_agent.record import RunDir
from atropos_agent.testing import FakeServer
from atropos_agent.testing.fake_policy import fake_logprobs
from atropos_agent.testing.fake_scores import Scoring
from tests.rollouts import a_rollout, group_of


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
    assert "is not a run" in done.stderr


def test_weights_or_a_server_must_be_named(tmp_path):
    done = CliRunner().invoke(app, ["check-logprobs", str(tmp_path)])
    assert done.exit_code == 2
    assert "either --model or --server" in done.stderr


def a_run(path, *, moved_by: float) -> str:
    """A run of four rollouts that a scripted server sampled; one logprob of one of them is moved."""
    true = fake_logprobs(np.array([1, 2], np.int32))
    rollouts = [a_rollout(index, logprobs=tuple(true.tolist())) for index in range(4)]
    rollouts[2] = a_rollout(2, logprobs=(float(true[0]), float(true[1]) + moved_by))
    with RunDir.create(path, {"config": {"environment": "terminal_tasks"}}) as run:
        run.add_group(group_of(*(replace(rollout, item_id="item") for rollout in rollouts)))
    return str(path)


async def checked_by_server(run: str, *bounds: str):
    async with FakeServer(lambda ask: "ok", wire=Wire.TEXT, scoring=Scoring.PROMPT_LOGPROBS) as server:
        asked = ["check-logprobs", run, "--server", server.url, *bounds]
        return await asyncio.to_thread(CliRunner().invoke, app, asked)


async def test_a_true_run_is_within_any_bound_by_its_server(tmp_path):
    done = await checked_by_server(
        a_run(tmp_path / "run", moved_by=0.0), "--max-p99", "1e-6", "--max", "1e-6"
    )
    assert done.exit_code == 0, done.stderr
    assert "8 logprobs compared" in done.stdout
    assert json.loads((tmp_path / "run" / "logprob_check.json").read_text())["compared"] == 8
    assert '"logprob_check":{' in (tmp_path / "run" / "report.html").read_text()


async def test_a_run_beyond_a_bound_is_exit_1_with_the_turn_and_the_place(tmp_path):
    done = await checked_by_server(a_run(tmp_path / "run", moved_by=-0.5), "--max", "0.1")
    assert done.exit_code == 1
    assert "turn 1: max 5.0e-01 is above 0.1" in done.stderr
    assert "rollout r2, sequence 0, turn 1, token 3 (id 2)" in done.stdout


async def test_a_server_that_scores_nothing_is_named(tmp_path):
    run = a_run(tmp_path / "run", moved_by=0.0)
    async with FakeServer(lambda ask: "ok", wire=Wire.TEXT) as server:
        done = await asyncio.to_thread(
            CliRunner().invoke, app, ["check-logprobs", run, "--server", server.url]
        )
        assert server.url in done.stderr
    assert done.exit_code == 1
    assert not (tmp_path / "run" / "logprob_check.json").exists()
