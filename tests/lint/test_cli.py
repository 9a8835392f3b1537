import json

import pytest
from typer.testing import CliRunner

from atropos_agent.cli import app
from atropos_agent.export import Rules
from atropos_agent.lint import sources
from atropos_agent.policy.embedded import EMBEDDED_MODEL
from atropos_agent.record import RunDir
from tests.lint.clean_run import shipped_renderer, write_clean_run
from tests.rollouts import a_rollout, group_of

IDS = list(range(50, 90))
GROUP = {
    "tokens": [IDS, IDS[::-1]],
    "masks": [[-100] * 20 + ids[20:] for ids in (IDS, IDS[::-1])],
    "scores": [0.0, 1.0],
    "inference_logprobs": [[1.0] * 20 + [-0.5] * 20] * 2,
}


def lint(*arguments):
    return CliRunner().invoke(app, ["lint", *map(str, arguments)])


def write(path, *groups):
    path.write_text("".join(f"{json.dumps(group)}\n" for group in groups))
    return path


async def test_a_run_directory_is_checked_with_its_own_tokenizer(tmp_path):
    await write_clean_run(tmp_path / "run", 1, shipped_renderer())
    done = lint(tmp_path / "run")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "trajectories 8  files 1  errors 0  warnings 0\n"


async def test_the_unfinished_groups_of_a_run_are_checked_too(tmp_path):
    await write_clean_run(tmp_path / "run", 1, shipped_renderer())
    (line,) = (tmp_path / "run" / "groups.jsonl").read_text().splitlines()
    record = json.loads(line)
    pending = {key: record[key] for key in ("schema", "item_id", "repetition")}
    rollouts = [{**pending, "rollout": rollout} for rollout in record["rollouts"][:2]]
    rollouts[1]["rollout"]["traces"][0]["result"]["sequences"][0]["own_ids"][3] = -7
    write(tmp_path / "run" / "pending" / "item.0.jsonl", *rollouts)
    done = lint(tmp_path / "run", "--json")
    (found,) = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 1
    assert (found["line"], found["trajectory"], found["token"]) == (2, 0, 3)
    assert (found["severity"], found["code"]) == ("error", "id-negative")
    assert found["file"].endswith("pending/item.0.jsonl")


def test_a_warning_alone_is_exit_0_and_one_line(tmp_path):
    path = write(tmp_path / "a.jsonl", {**GROUP, "scores": [1.0, 1.0]})
    done = lint(path)
    assert done.exit_code == 0
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{path}:1: warning zero-variance: all 2 scores are 1.0")
    assert last == "trajectories 2  files 1  errors 0  warnings 1"
    assert "skipped: ends of turns: give --tokenizer" in done.stderr


def test_many_findings_of_a_kind_are_counted_and_never_in_json(tmp_path):
    path = write(tmp_path / "a.jsonl", *([{**GROUP, "scores": [1.0, 1.0]}] * 13))
    shown = [line for line in lint(path).stdout.splitlines() if "zero-variance" in line]
    assert len(shown) == 11
    assert shown[-1] == f"{path}: 3 more of zero-variance (13 in all)"
    listed = [json.loads(line) for line in lint(path, "--json").stdout.splitlines()]
    assert sum(found["code"] == "zero-variance" for found in listed) == 13


def test_a_tokenizer_may_be_named(tmp_path):
    group = {**GROUP, "tokens": [IDS, [10**6, *IDS[:0:-1]]]}
    done = lint(write(tmp_path / "a.jsonl", group), "--tokenizer", EMBEDDED_MODEL)
    assert done.exit_code == 1
    assert "trajectory 1, token 0: error id-outside-vocabulary: token id 1000000" in done.stdout


def test_a_folder_of_files_is_checked_file_by_file(tmp_path):
    write(tmp_path / "a.jsonl", GROUP)
    write(tmp_path / "b.jsonl", {**GROUP, "scores": [None, 1.0]})
    done = lint(tmp_path)
    assert done.exit_code == 1
    assert f"{tmp_path / 'b.jsonl'}:1: trajectory 0: error score-not-finite" in done.stdout
    assert done.stdout.endswith("trajectories 4  files 2  errors 1  warnings 0\n")


@pytest.mark.parametrize("name", ["absent.jsonl", "empty"])
def test_what_cannot_be_read_is_exit_2_and_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    done = lint(tmp_path / name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert name in done.stderr


def test_a_wrong_tokenizer_is_exit_2_and_named(tmp_path):
    done = lint(write(tmp_path / "a.jsonl", GROUP), "--tokenizer", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "--tokenizer: no folder" in done.stderr


def test_a_run_that_has_recorded_nothing_is_clean(tmp_path):
    RunDir.create(tmp_path / "run", {}).close()
    assert lint(tmp_path / "run").exit_code == 0


def test_a_log_alone_is_checked_by_the_rules_of_its_run(tmp_path):
    with RunDir.create(tmp_path / "run", {"config": {"env": {"on_branch": "last"}}}) as run:
        run.add_group(group_of(a_rollout(0, 1.0), a_rollout(1, 0.0)))
    (source,) = sources(tmp_path / "run" / "groups.jsonl")
    assert source.rules == Rules("last")
    (foreign,) = sources(write(tmp_path / "a.jsonl", GROUP))
    assert foreign.rules == Rules()


def test_a_sealed_run_is_named_by_its_segment(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        run.add_group(group_of(a_rollout(0, 1.0), a_rollout(1, 0.0)))
        run.seal()
    done = lint(tmp_path / "run")
    assert "segments/000000000000.parquet:1: " in done.stdout
