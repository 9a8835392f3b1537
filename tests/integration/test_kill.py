"""The real command, killed at random moments: nothing lost, nothing twice, nothing left running."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atropos_agent.record import read_groups
from tests.processes import descendants, wait_until_gone

pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))
GROUPS, SIZE, KILLS = 80, 4, 10
SETTINGS = [
    f"--collect.groups={GROUPS}",
    f"--env.group_size={SIZE}",
    "--sandbox.slots=8",
    "--agent.max_tokens=48",
    "--agent.max_steps=3",
]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "collect", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def first(tmp_path: Path) -> subprocess.Popen[str]:
    config = Path("configs/terminal_tasks/quickstart.yaml").resolve()
    return start(str(config), *SETTINGS, cwd=tmp_path)


def again(tmp_path: Path) -> subprocess.Popen[str]:
    return start("--resume", "runs/quickstart", cwd=tmp_path)


def whole_lines(path: Path) -> list[dict]:
    """What a reader after the crash can rely on: the lines that end."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def acknowledged(run: Path) -> dict[str, float]:
    """Finished rollouts on disk, with the moment each began."""
    found = {}
    for line in whole_lines(run / "groups.jsonl"):
        found |= {rollout["id"]: rollout["started_at"] for rollout in line["rollouts"]}
    for file in (run / "pending").glob("*.jsonl"):
        found |= {line["rollout"]["id"]: line["rollout"]["started_at"] for line in whole_lines(file)}
    return found


def final(run: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for record in read_groups(run):
        for rollout in record.rollouts:
            assert rollout.id not in found, f"{rollout.id} is recorded twice"
            found[rollout.id] = rollout.started_at
    return found


def wait_for_more_than(count: int, run: Path, process: subprocess.Popen[str]) -> None:
    while len(acknowledged(run)) <= count and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_killed_ten_times_and_resumed_nothing_is_lost_twice_or_left(tmp_path):
    rng = random.Random(20261121)
    run = tmp_path / "runs" / "quickstart"
    known: dict[str, float] = {}
    for number in range(KILLS):
        process = again(tmp_path) if (run / "run.yaml").exists() else first(tmp_path)
        if number % 2:
            wait_for_more_than(len(known), run, process)
            time.sleep(rng.uniform(0.0, 0.8))
        else:
            time.sleep(rng.uniform(0.2, 3.0))
        below = descendants(process.pid)
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.communicate(timeout=30)
        assert not wait_until_gone(below, within_s=5.0)
        if run.exists():
            known = (
                acknowledged(run) | known
            )  # what was known first stays: a second run of it must not hide it
    process = again(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    record = final(run)
    assert len(known) >= KILLS // 2
    assert known.items() <= record.items()
    assert len(record) == GROUPS * SIZE
    assert not list((run / "pending").iterdir())


@pytest.mark.timeout(200)
def test_an_interrupt_stops_cleanly_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    process = first(tmp_path)
    run = tmp_path / "runs" / "quickstart"
    while not acknowledged(run) and process.poll() is None:
        time.sleep(0.05)
    below = descendants(process.pid)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    known = acknowledged(run)
    assert process.returncode == 130, output
    assert "atropos-agent collect --resume runs/quickstart" in output
    assert "Traceback" not in output
    assert not wait_until_gone(below, within_s=5.0)
    assert known
    assert (run / "report.html").exists()
    process = again(tmp_path)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert known.items() <= final(run).items()
