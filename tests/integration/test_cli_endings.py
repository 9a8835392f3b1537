"""How `collect` ends: what is shown, what is left on disk, and the exit code."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atropos_agent.record import read_groups
from tests.fake_server_process import fake_server

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))
RESUME = "resume with: atropos-agent collect --resume runs/run"
ENVIRONMENTS = """
import asyncio
from dataclasses import dataclass
from atropos_agent import AgentEnv

@dataclass(frozen=True)
class Item:
    id: str

class Plain(AgentEnv[Item]):
    many = 1000
    async def setup(self):
        self.drawn = 0
    async def get_next_item(self):
        self.drawn += 1
        return Item(f"item{self.drawn}") if self.drawn <= self.many else None
    def build_task(self, item):
        return "Say something. " * 20
    def score_trajectory(self, item, final_response):
        return 1.0

class Two(Plain):
    many = 2

class Unscorable(Plain):
    def score_trajectory(self, item, final_response):
        return 1.0 / (self.drawn - self.drawn)

class Undeliverable(Plain):
    def score_trajectory(self, item, final_response):
        return 1e39  # finite, but not as the float32 that a trainer holds

class SlowToClose(Plain):
    async def __aexit__(self, *exc):
        await super().__aexit__(*exc)
        await asyncio.sleep(30)
"""
SMALL = [
    "--agent.system_prompt=Hi",
    "--env.group_size=2",
    "--env.infrastructure_retries=0",
    "--sandbox.slots=2",
]


@pytest.fixture
def server(tmp_path, tmp_path_factory) -> Iterator[list[str]]:
    (tmp_path / "own.py").write_text(ENVIRONMENTS)
    (tmp_path / "config.yaml").write_text("environment: own:Plain\n")
    with fake_server(tmp_path_factory.mktemp("tokenizer")) as overrides:
        yield [*overrides, *SMALL]


def collect(tmp_path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, COMMAND, "collect", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The table of the summary."""
    found = (line.partition("  ") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in found}


def test_a_whole_run_ends_with_0_and_a_resume_takes_overrides_on_either_side(tmp_path, server):
    done = collect(tmp_path, "--collect.groups=2", "config.yaml", *server)
    assert done.returncode == 0, done.stderr
    assert rows(done)["groups"] == "2 of 2"
    again = collect(tmp_path, "--resume", "runs/run", "--collect.groups=3")
    assert again.returncode == 0, again.stderr
    assert rows(again)["groups"] == "3 of 3 (2 from before)"


def test_an_environment_that_runs_out_of_items_says_so_and_is_exit_1(tmp_path, server):
    done = collect(tmp_path, "config.yaml", "--environment=own:Two", "--collect.groups=5", *server)
    assert done.returncode == 1
    assert "the environment has 2 items, 5 groups were asked for" in done.stderr
    assert "3 of 5 requested groups are not recorded" in done.stderr
    assert rows(done)["groups"] == "2 of 5"


def test_a_run_that_trains_no_token_says_so_and_is_exit_1(tmp_path, server):
    done = collect(tmp_path, "config.yaml", "--collect.groups=2", "--agent.max_tokens=1", *server)
    assert done.returncode == 1
    assert "2 groups train no token" in done.stderr
    assert rows(done)["trained tokens"] == "0 (none in 2 groups)"
    report = (tmp_path / "runs" / "run" / "report.html").read_text()
    assert "2 groups train no token" in report


def test_groups_that_could_not_be_scored_are_exit_1_and_can_be_resumed(tmp_path, server):
    done = collect(tmp_path, "config.yaml", "--environment=own:Unscorable", "--collect.groups=2", *server)
    assert done.returncode == 1
    assert "2 of 2 requested groups are not recorded" in done.stderr
    assert rows(done)["incomplete groups"] == "2"
    assert RESUME in done.stdout


def test_groups_that_no_trainer_can_take_are_exit_1_and_counted(tmp_path, server):
    done = collect(tmp_path, "config.yaml", "--environment=own:Undeliverable", "--collect.groups=2", *server)
    assert done.returncode == 1
    assert "2 groups have no trainable data (RecordError 2)" in done.stderr
    assert rows(done)["without data"] == "2: RecordError 2"
    assert RESUME not in done.stdout


def test_a_full_disk_is_named_and_the_summary_and_the_way_on_are_shown(tmp_path, server):
    full = ("bash", "-c", 'ulimit -f 24; exec "$@"', "bash")
    settings = ["--collect.groups=200", "--sandbox.backend=local"]  # the limit would hold in a sandbox too
    done = collect(tmp_path, "config.yaml", *settings, *server, before=full)
    assert done.returncode == 1
    assert "error: RunDirectoryError" in done.stderr
    assert "groups.jsonl cannot be written" in done.stderr
    assert "warning: no report" in done.stderr
    assert int(rows(done)["groups"].split()[0]) > 0
    assert RESUME in done.stdout
    assert not list(tmp_path.glob("runs/run/.*.new"))
    assert list(read_groups(tmp_path / "runs" / "run"))


@pytest.mark.parametrize("environment", ["own:Plain", "own:SlowToClose"])
def test_a_second_interrupt_ends_at_once_and_says_how_to_go_on(tmp_path, server, environment):
    command = [COMMAND, "collect", "config.yaml", f"--environment={environment}", *server]
    with subprocess.Popen(
        [*command, "--collect.groups=1000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("groups "):  # the plain progress lines
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        if environment == "own:SlowToClose":
            shown = "".join(iter(process.stdout.readline, RESUME + "\n")) + RESUME
            process.send_signal(signal.SIGINT)
            shown += process.communicate(timeout=20)[0]
        else:
            process.send_signal(signal.SIGINT)
            shown = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    assert RESUME in shown
    assert "before anything was collected" not in shown
    assert list(read_groups(tmp_path / "runs" / "run"))


def test_an_interrupt_before_the_run_directory_is_opened_says_so(tmp_path, server):
    (tmp_path / "slow.py").write_text(
        "import asyncio, sys\nfrom own import Plain\n"
        "class Slow(Plain):\n"
        "    async def setup(self):\n"
        "        sys.stderr.write('setting up\\n')\n"
        "        sys.stderr.flush()\n"
        "        await asyncio.sleep(30)\n"
    )
    command = [COMMAND, "collect", "config.yaml", "--environment=slow:Slow", *server]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "setting up" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    assert "stopped before anything was collected" in shown
    assert not (tmp_path / "runs").exists()


def test_a_tokenizer_that_cannot_be_had_is_wrong_input_and_named(tmp_path):
    quickstart = Path("configs/terminal_tasks/quickstart.yaml").resolve()
    with fake_server(tmp_path / "tokenizer") as (url, _):
        done = collect(tmp_path, str(quickstart), url, "--policy.tokenizer=absent/folder")
    assert done.returncode == 2
    assert "policy.tokenizer: " in done.stderr
    assert "absent/folder" in done.stderr


@pytest.mark.parametrize("on_branch", ["refuse", "last"])
def test_history_that_a_template_rewrites_is_warned_of_and_counted(tmp_path, on_branch):
    (tmp_path / "own.py").write_text(ENVIRONMENTS)
    (tmp_path / "config.yaml").write_text("environment: own:Plain\n")
    settings = ["--agent.history=template", f"--env.on_branch={on_branch}", "--collect.groups=2", *SMALL]
    answers = ["<tool_call>{broken \n"] * 2 + ["done"]
    with fake_server(tmp_path / "tokenizer", answers, template="trimming") as overrides:
        done = collect(tmp_path, "config.yaml", *overrides, *settings)
    warned = "env.on_branch=refuse drops its whole group" in " ".join(done.stderr.split())
    assert warned == (on_branch == "refuse")
    assert done.returncode == (1 if on_branch == "refuse" else 0), done.stderr
    assert rows(done)["prefix breaks"] == "8: template 8"
    assert rows(done).get("left out") == (None if on_branch == "refuse" else "8 sequences (env.on_branch)")
    *_, last = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    found = json.loads(last)
    assert found["breaks"] == {"template": 8}
    assert found["sequences_left_out"] == (0 if on_branch == "refuse" else 8)
