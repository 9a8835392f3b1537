import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atropos_agent.export import scored_groups
from atropos_agent.record import read_groups
from tests.fake_server_process import serving
from tests.tokenizers_for_tests import tokenizer_for

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))
QUICKSTART = str(Path("configs/terminal_tasks/quickstart.yaml").resolve())
SMALL = ["--collect.groups=2", "--env.group_size=2", "--agent.max_steps=2", "--agent.max_tokens=32"]


def cli(*arguments: str, cwd: Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, COMMAND, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["collect", QUICKSTART, "--agent.temprature=1"], "agent.temprature: unknown key; did you mean"),
        (["collect", QUICKSTART, "--env.group_size=many"], "env.group_size: Input should be a valid integer"),
        (["collect", QUICKSTART, "--env.tasks=[nope]"], "no task family 'nope'"),
        (["collect", QUICKSTART, "--environment=nope"], "no environment named 'nope'"),
        (["collect", QUICKSTART, "nonsense"], "unexpected extra argument"),
        (["collect", "absent.yaml"], "cannot read config absent.yaml"),
        (["collect"], "--resume RUN_DIRECTORY"),
        (["run", "say hello"], "it cannot follow free text"),
        (["run", "--item", "nope/1/1"], "no task family 'nope'"),
        (["env", "validate", "nope"], "no environment named 'nope'"),
    ],
)
def test_wrong_input_is_exit_2_and_named(tmp_path, arguments, said):
    done = cli(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["collect"], ["run"], ["env"], ["env", "validate"], ["tools"]])
def test_help_is_everywhere(tmp_path, arguments):
    done = cli(*arguments, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage: atropos-agent" in done.stdout


def test_a_dead_server_is_named_with_its_cause_and_nothing_is_made(tmp_path):
    began = time.monotonic()
    done = cli("collect", QUICKSTART, "--policy=http://127.0.0.1:9/v1", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot reach http://127.0.0.1:9/v1" in done.stderr
    assert "refused" in done.stderr
    assert time.monotonic() - began < 5.0
    assert not list(tmp_path.iterdir())


def test_no_sandbox_is_exit_2_with_the_probe_and_the_remedy(tmp_path):
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    done = cli(
        "collect",
        QUICKSTART,
        cwd=tmp_path,
        before=("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"),
    )
    assert done.returncode == 2
    assert "native: " in done.stderr
    assert "bubblewrap: " in done.stderr
    assert "Remedy: " in done.stderr


def test_what_is_installed_is_listed(tmp_path):
    environments, tools = cli("env", "list", cwd=tmp_path), cli("tools", "list", cwd=tmp_path)
    assert "terminal_tasks" in environments.stdout
    assert all(name in tools.stdout for name in ("terminal", "read_file", "write_file", "edit_file"))


def test_validate_proves_items_and_reports_how_many(tmp_path):
    done = cli("env", "validate", "terminal_tasks", "--items", "60", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "60 of 60 items hold")


def test_validate_fails_where_an_environment_does_not_hold(tmp_path):
    (tmp_path / "broken.py").write_text(
        "from tests.spelling import Spelling, Reference\n"
        "class Broken(Spelling):\n"
        "    async def reference(self, item):\n"
        "        return Reference([], 'done')\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    done = cli(
        "env",
        "validate",
        "broken:Broken",
        "--items",
        "2",
        cwd=tmp_path,
        before=("env", f"PYTHONPATH={paths}"),
    )
    assert done.returncode == 1
    assert "reference 0, nothing 0" in done.stdout


def test_an_item_is_shown_at_work_and_scored(tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    done = cli("run", "--item", "count_lines/1/7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 1" in done.stdout
    assert "reward" in done.stdout


def test_collect_writes_a_run_and_never_overwrites_one(tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    for name in ("quickstart", "quickstart-2"):
        done = cli("collect", QUICKSTART, *SMALL, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"runs/{name}/report.html" in done.stdout
        records = list(read_groups(tmp_path / "runs" / name))
        assert [len(record.rollouts) for record in records] == [2, 2]
        assert {path.name for path in (tmp_path / "runs" / name).iterdir()} >= {
            "groups.jsonl",
            "metrics.jsonl",
            "report.html",
            "run.yaml",
        }


def test_unsafe_settings_are_warned_of_and_other_temperatures_keep_their_logprobs(tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    settings = ["--sandbox.backend=local", "--agent.temperature=0.7"]
    done = cli("collect", QUICKSTART, *SMALL, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "UNSAFE" in done.stderr
    assert "sampling distribution" not in " ".join(done.stderr.split())
    assert all("inference_logprobs" in group for group in scored_groups(tmp_path / "runs" / "quickstart"))
    (record, *_) = read_groups(tmp_path / "runs" / "quickstart")
    assert record.rollouts[0].isolation["unsafe"] is True


def test_raw_logprobs_of_another_distribution_are_warned_of_and_left_out(tmp_path):
    tokenizer_for("chatml").save_pretrained(tmp_path / "tokenizer")
    script = tmp_path / "script.json"
    served = {"wire": "vllm", "logprob_mode": "raw", "tokenizer": str(tmp_path / "tokenizer")}
    script.write_text(json.dumps({**served, "turns": ["done"]}))
    with serving(script) as url:
        server = [f"--policy.base_url={url}", f"--policy.tokenizer={tmp_path / 'tokenizer'}"]
        settings = ["--agent.temperature=0.7", "--collect.groups=1"]
        done = cli("collect", QUICKSTART, *SMALL, *server, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not those of the sampling distribution" in " ".join(done.stderr.split())
    (group,) = scored_groups(tmp_path / "runs" / "quickstart")
    assert "inference_logprobs" not in group
