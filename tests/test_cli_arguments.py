"""What the command line understands, through the real command; nothing here gets as far as a rollout."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from atropos_agent.cli import app
from atropos_agent.cli._overrides import is_override
from atropos_agent.cli.run import _settings
from tests.shipped_model import model_folder

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))
DEAD = "http://127.0.0.1:9/v1"
CANNOT_REACH = "cannot reach http://127.0.0.1:9/v1/models"


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A working directory with the shipped configs and one of the user's own."""
    (tmp_path / "configs").symlink_to(Path("configs").resolve())
    (tmp_path / "my.yaml").write_text(f"environment: terminal_tasks\npolicy: {DEAD}\n")
    return tmp_path


def examples(command: object) -> Iterator[str]:
    """Every command line that a help text shows."""
    for line in (getattr(command, "epilog", None) or "").splitlines():
        _, name, rest = line.partition("atropos-agent ")
        if name:
            yield rest
    for below in getattr(command, "commands", {}).values():
        yield from examples(below)


EXAMPLES = list(examples(get_command(app)))
NEEDS_MORE = ("lint", "check-logprobs", "doctor", "fake-server", "seal")
"""Commands whose examples name a record, a server, a tokenizer or a script that is not there."""
OF_OTHERS = [e for e in EXAMPLES if e.split()[0] in NEEDS_MORE and "--sandbox" not in e]
WITHOUT_MODEL = [e for e in EXAMPLES if e not in OF_OTHERS and (":8000" in e or "my.yaml" in e)]


def test_every_command_shows_an_example():
    assert {example.split()[0] for example in EXAMPLES} == set(getattr(get_command(app), "commands", {}))
    assert len(WITHOUT_MODEL) == 3


@pytest.mark.parametrize("example", WITHOUT_MODEL)
def test_an_example_with_a_server_fails_only_for_the_dead_server(folder, example):
    done = cli(*shlex.split(example.replace(":8000", ":9")), cwd=folder)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert done.stderr.count(CANNOT_REACH) == 1


@pytest.mark.parametrize("example", OF_OTHERS)
def test_an_example_that_needs_more_than_this_package_says_what_is_not_there(folder, example):
    done = cli(*shlex.split(example), cwd=folder)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e not in (*WITHOUT_MODEL, *OF_OTHERS) and "resume" not in e]
)
def test_an_example_with_nothing_but_this_package_succeeds(folder, example):
    small = ["--collect.groups=1", "--env.group_size=1"] if example.startswith("collect") else []
    if example.split()[0] in ("collect", "run"):
        model_folder()
    done = cli(*shlex.split(example), *small, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["collect", "--collect.groups=1", "my.yaml"],
        ["collect", "--name=x", "configs/terminal_tasks/quickstart.yaml", f"--policy.base_url={DEAD}"],
        ["collect", f"--policy={DEAD}", "configs/terminal_tasks/quickstart.yaml"],
        ["run", f"--policy={DEAD}", "--item=count_lines/1/7"],
        ["run", f"--policy.base_url={DEAD}", "which files are here?"],
        ["run", "which files are here?", "--environment=terminal_tasks", "--config", "my.yaml"],
    ],
)
def test_overrides_are_heeded_wherever_they_stand(folder, arguments):
    done = cli(*arguments, cwd=folder)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(CANNOT_REACH) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["collect", "my.yaml", f"--polcy={DEAD}"], "no option --polcy; did you mean --policy?"),
        (["collect", "--resum", "runs/x"], "no option --resum; did you mean --resume?"),
        (
            ["run", "--item", "x", "--nonsense"],
            "no option --nonsense; Known here: --agent, --collect, --config, --env,",
        ),
        (["collect", "my.yaml", "--agnet.max_steps=1"], "agnet: unknown key; did you mean 'agent'?"),
        (["collect", "my.yaml", "--policy", DEAD], "it is written --policy=VALUE"),
        (["collect", "my.yaml", "--env.seed", "5"], "it is written --env.seed=VALUE"),
        (["collect", "my.yaml", "other.yaml"], "unexpected extra argument"),
        (["env", "validate", "terminal_tasks", "--env.seed=5"], "No such option"),
    ],
)
def test_what_no_command_knows_is_exit_2_and_named(folder, arguments, said):
    done = cli(*arguments, cwd=folder)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert said in done.stderr


def test_an_option_whose_value_has_a_dot_is_no_override():
    assert not is_override("--item=count.lines/1")
    assert not is_override("policy.base_url=x")
    assert is_override("--policy.base_url=x")
    assert is_override("--policy=x")


def test_the_prompt_of_the_embedded_model_is_for_it_alone():
    assert _settings(None, []).env == {"prompt": "short"}
    assert _settings(None, [f"--policy={DEAD}"]).env == {}
    assert _settings(None, ["--environment=my:Own"]).env == {}
    assert _settings(None, [f"--policy={DEAD}", "--env.prompt=short"]).env == {"prompt": "short"}


OWN = """
from dataclasses import dataclass
from atropos_agent import AgentEnv

@dataclass(frozen=True)
class Item:
    id: str

class Plain(AgentEnv[Item]):
    async def get_next_item(self):
        return Item("one")
    def build_task(self, item):
        return "task"
    def score_trajectory(self, item, final_response):
        return 0.0

class Empty(Plain):
    async def get_next_item(self):
        return None
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("own:Plain", 1, "TaskError: environment ships no reference solutions"),
        ("own:Empty", 1, "own:Empty gave no items: nothing was checked"),
        ("os:path", 2, "not a subclass of AgentEnv"),
        (":X", 2, "cannot load environment ':X'"),
        ("..a:B", 2, "cannot load environment '..a:B'"),
    ],
)
def test_validate_says_why_nothing_can_be_proven(tmp_path, name, code, said):
    (tmp_path / "own.py").write_text(OWN)
    done = cli("env", "validate", name, "--items", "2", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_environment_in_the_working_directory_is_found_but_shadows_nothing(tmp_path):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "spell.py").write_text(OWN)
    (tmp_path / "transformers.py").write_text("raise RuntimeError('shadowed')\n")
    done = cli("env", "validate", "my_package.spell:Empty", cwd=tmp_path)
    assert "my_package.spell:Empty gave no items" in done.stderr
    assert "shadowed" not in done.stderr
