"""Every family at every difficulty: the reference solves it, nothing else does."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from atropos_agent.errors import ConfigError
from atropos_environments.terminal_tasks.checks import check, score_of
from atropos_environments.terminal_tasks.generate import families, generate, task_from_id
from atropos_environments.terminal_tasks.task import DIFFICULTIES, DONE, Task
from scripts.tiny_policy.workspace import execute, snapshot, workspace

SEEDS = range(6)
KINDS = [(family, difficulty) for family in families() for difficulty in DIFFICULTIES]
DIGEST = """
import hashlib
from atropos_environments.terminal_tasks.generate import families, generate
text = "".join(repr(generate(f, d, s)) for f in families() for d in (1, 2, 3, 4, 5) for s in range(3))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def solve(task: Task) -> tuple[float, float, bytes]:
    """Score of the reference solution, score of its commands with a wrong answer, last output."""
    with workspace(task) as root:
        before = snapshot(root)
        output = b""
        for turn in task.solution:
            exit_code, output, errors = execute(root, turn.command)
            assert exit_code == 0, (task.id, turn.command, errors)
        after = snapshot(root)
    right = score_of(check(task, task.final_response, before, after))
    return right, score_of(check(task, f"{task.final_response}0", before, after)), output


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_the_reference_solution_scores_one_and_doing_nothing_zero(family: str, difficulty: int) -> None:
    for seed in SEEDS:
        task = generate(family, difficulty, seed)
        with workspace(task) as root:
            untouched = snapshot(root)
        assert score_of(check(task, "", untouched, untouched)) == 0, task.id
        assert score_of(check(task, DONE, untouched, untouched)) == 0, task.id
        right, wrong, output = solve(task)
        assert right == 1, task.id
        if task.answer is not None:
            assert wrong < 1, task.id
            printed = [line.removeprefix("./") for line in output.decode().strip().splitlines()]
            assert sorted(printed) == sorted(task.answer.splitlines()), task.id


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_no_task_is_done_by_deleting_everything(family: str, difficulty: int) -> None:
    task = generate(family, difficulty, 3)
    with workspace(task) as root:
        before = snapshot(root)
    assert score_of(check(task, task.final_response, before, {})) == 0


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_no_answer_is_right_more_than_half_of_the_time(family: str, difficulty: int) -> None:
    answers = Counter(generate(family, difficulty, seed).answer for seed in range(100))
    del answers[None]
    assert all(count <= 50 for count in answers.values()), answers.most_common(1)


@pytest.mark.parametrize("family", families())
def test_the_prompts_of_a_family_differ(family: str) -> None:
    assert len({generate(family, 2, seed).prompt for seed in range(20)}) > 15


def test_there_are_at_least_twenty_families() -> None:
    assert len(families()) >= 20


def test_a_task_is_rebuilt_from_its_id() -> None:
    task = generate("chores", 4, 11)
    assert task.id == "chores/4/11"
    assert task_from_id(task.id) == task


@pytest.mark.parametrize("identity", ["chores", "chores/4", "chores/x/1", "nothing/1/1", "chores/6/1"])
def test_an_unknown_id_is_refused(identity: str) -> None:
    with pytest.raises(ConfigError):
        task_from_id(identity)


@pytest.mark.integration
def test_tasks_do_not_depend_on_the_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
