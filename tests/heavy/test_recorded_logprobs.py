"""Logprobs of whole runs are those of the weights, found out with the commands that a user types.

`--server-python` names the interpreter that has vLLM, and with it torch for `check-logprobs`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from atropos_agent.policy.embedded import EMBEDDED_MODEL
from atropos_agent.record import read_groups
from tests.gguf_f32 import write_f32
from tests.token_truth.real_servers import SHIPPED_GGUF, serving

QUICKSTART = Path("configs/terminal_tasks/quickstart.yaml").resolve()
GROUPS, LEAST_ROLLOUTS, LEAST_TOKENS = 16, 50, 5000
BOUNDS = ("--max-p99", "1e-4", "--max", "1e-2")
"""For every turn, with float32 weights."""


def typed(python: Path | str, *arguments: str, cwd: Path, code: int = 0) -> str:
    """What the command line of this interpreter prints; the command itself is shown too."""
    command = [str(Path(python).absolute().with_name("atropos-agent")), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=800, check=False)
    sys.stdout.write(f"$ atropos-agent {' '.join(arguments)}\n{done.stdout}")
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


async def collect(kind: str, python: Path, cwd: Path) -> None:
    """A run of this server in `cwd`/runs; one that tells logprobs of a prompt is asked for them too."""
    exact = cwd / "model-f32.gguf"
    write_f32(SHIPPED_GGUF, exact)
    size = [f"--collect.groups={GROUPS}", f"--name={kind}"]
    async with serving(kind, python, exact) as url:
        where = [f"--policy.base_url={url}/v1", f"--policy.tokenizer={EMBEDDED_MODEL}"]
        await asyncio.to_thread(typed, sys.executable, "collect", str(QUICKSTART), *where, *size, cwd=cwd)
        if kind == "vllm":
            asked = ["check-logprobs", f"runs/{kind}", "--server", f"{url}/v1", *BOUNDS]
            await asyncio.to_thread(typed, sys.executable, *asked, cwd=cwd)


@pytest.fixture(scope="module")
def python(pytestconfig) -> Path:
    given = pytestconfig.getoption("--server-python")
    assert given is not None, "--server-python must name the interpreter that has vLLM and torch"
    return given


@pytest.fixture(scope="module", params=["vllm", "llama.cpp"])
def run(request, python, tmp_path_factory) -> Path:
    cwd = tmp_path_factory.mktemp("work")
    asyncio.run(collect(request.param, python, cwd))
    return cwd / "runs" / request.param


def checked(run: Path) -> Mapping:
    return json.loads((run / "logprob_check.json").read_text())


def test_every_turn_of_a_run_agrees_with_the_weights(run, python):
    typed(python, "check-logprobs", str(run), "--model", str(EMBEDDED_MODEL), *BOUNDS, cwd=run)
    (origin,) = checked(run)["origins"]
    several = [r for group in read_groups(run) for r in group.rollouts if r.result.num_steps > 1]
    assert len(several) >= LEAST_ROLLOUTS
    assert origin["overall"]["count"] >= LEAST_TOKENS
    assert len(origin["turns"]) >= 3
    assert "logprob_check" in (run / "report.html").read_text()


def test_one_wrong_logprob_of_thousands_is_found_where_it_is(run, python):
    *before, last = (run / "groups.jsonl").read_text().splitlines()
    record = json.loads(last)
    rollout = record["rollouts"][3]
    sequence = rollout["traces"][0]["result"]["sequences"][0]
    (before_it, _), (place, _), *_ = sequence["own_logprobs"]["at"]
    first_turn = sequence["own_logprobs"]["at"][0][1] - before_it
    sequence["own_logprobs"]["values"][first_turn] -= 5.0
    (run / "groups.jsonl").write_text("\n".join([*before, json.dumps(record)]) + "\n")
    said = typed(
        python, "check-logprobs", str(run), "--model", str(EMBEDDED_MODEL), "--max", "1", cwd=run, code=1
    )
    assert "turn 2: max" in said
    worst = checked(run)["origins"][0]["overall"]["worst"]
    assert (worst["rollout_id"], worst["step_number"]) == (rollout["id"], 2)
    assert worst["token_index"] == place
