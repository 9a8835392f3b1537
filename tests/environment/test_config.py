import json
import subprocess
import sys
from pathlib import Path
from typing import Generic, TypeVar

import pytest
import yaml

from atropos_agent.config import AgentConfig, EnvConfig, load_run_config
from atropos_agent.environment import AgentEnv, open_environment
from atropos_agent.errors import ConfigError
from atropos_agent.record.manifest import manifest
from atropos_agent.testing import FakePolicy
from tests.environment.echoing import Echo, EchoConfig, Word

ConfigT = TypeVar("ConfigT", bound=EnvConfig)


class Plain(AgentEnv[Word]):
    async def get_next_item(self):
        return None

    def build_task(self, item):
        return "task"


class Named(Plain):
    config_type = EchoConfig


class Between(AgentEnv[Word, ConfigT], Generic[ConfigT]):
    """Leaves the config to those that inherit."""


class Below(Between[EchoConfig]):
    pass


class Choosing(Echo):
    """Wants at most eight steps, unless the run says how many."""

    def build_agent_config(self, agent):
        return agent if "max_steps" in agent.model_fields_set else agent.model_copy(update={"max_steps": 8})


def test_the_config_type_is_that_of_the_class_argument():
    class Heir(Echo):
        pass

    found = [one.config_type for one in (Plain, Named, Echo, Heir, Between, Below)]
    assert found == [EnvConfig, EchoConfig, EchoConfig, EchoConfig, EnvConfig, EchoConfig]


def test_a_config_in_quotes_is_refused_where_the_class_is_made():
    with pytest.raises(TypeError, match="define it before the class"):

        class Quoted(AgentEnv[Word, "EchoConfig"]):
            pass


def test_a_config_of_another_type_is_refused():
    with pytest.raises(ConfigError, match="Echo needs a config of type EchoConfig, got EnvConfig"):
        Echo(FakePolicy([]), config=EnvConfig())


TYPED = """
from dataclasses import dataclass
from atropos_agent import AgentEnv, EnvConfig

@dataclass(frozen=True)
class Item:
    id: str

class MyConfig(EnvConfig):
    words: int = 3

class MyEnv(AgentEnv[Item, MyConfig]):
    async def get_next_item(self) -> Item | None:
        return Item("x" * self.config.words)

    def build_task(self, item: Item) -> str:
        return item.id

class Plain(AgentEnv[Item]):
    async def get_next_item(self) -> Item | None:
        return Item(str(self.config.seed))

    def build_task(self, item: Item) -> str:
        return item.id

def takes_any_config(env: AgentEnv[Item]) -> int:
    return env.config.seed

def gives(env: MyEnv) -> int:
    return takes_any_config(env)
"""
WRONG = """
def wrong(env: MyEnv) -> str:
    return env.config.words
"""


@pytest.mark.integration
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_an_authors_own_field_needs_no_ignore_and_is_checked(tmp_path, checker):
    (tmp_path / "right.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(TYPED + WRONG)
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(Path.cwd())], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = {
        "mypy": ["mypy", "--strict", "--cache-dir", tmp_path / "cache", *tmp_path.glob("*.py")],
        "pyright": ["pyright", "-p", tmp_path],
    }[checker]
    command[0] = Path(sys.executable).with_name(checker)
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    errors = [line for line in done.stdout.splitlines() if " error" in line and ".py:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "wrong.py" in errors[0]


RUN = """
environment: tests.environment.test_config:Choosing
policy: http://127.0.0.1:9/v1
"""


def load(tmp_path, text: str, overrides=()):
    (tmp_path / "run.yaml").write_text(RUN + text)
    return load_run_config(tmp_path / "run.yaml", overrides, environ={})


def made(run) -> Choosing:
    """The environment that a run has, without its server."""
    return Choosing(FakePolicy([]), config=EchoConfig.model_validate(run.env), agent=run.agent)


@pytest.mark.parametrize(
    ("text", "overrides", "given", "max_steps"),
    [
        ("", [], set(), 8),
        ("env: {words: 3}\nagent: {max_steps: 50}", [], {"words"}, 50),  # both are the defaults
        ("env: {words: 4}", ["--agent.max_steps=50"], {"words"}, 50),
        ("agent: {temperature: 1.0}", ["--env.seed=0"], {"seed"}, 8),
    ],
)
def test_unset_can_be_told_from_set_to_the_default(tmp_path, text, overrides, given, max_steps):
    env = made(load(tmp_path, text, overrides))
    assert env.config.model_fields_set == given
    assert env.agent_config.max_steps == max_steps


def test_a_resumed_run_leaves_to_its_environment_what_it_left_before(tmp_path):
    run = load(tmp_path, "agent: {max_tokens: 9}")
    recorded = yaml.safe_load(yaml.safe_dump(manifest(run, "model")))
    again = load_run_config(None, defaults=recorded["config"], environ={})
    assert again == run
    assert again.agent.model_fields_set == {"max_tokens"}
    assert made(again).agent_config.max_steps == 8
    assert recorded["identity"]["agent"] == AgentConfig(max_tokens=9).model_dump(mode="json")


async def test_an_opened_environment_has_its_config_with_what_was_set(tmp_path):
    seen = {}

    class Looking(Echo):
        def build_tools(self):
            seen.update(words=self.config.words, given=set(self.config.model_fields_set))
            raise ConfigError("seen enough")

    globals()["Looking"] = Looking
    run = load(tmp_path, "env: {words: 3}", ["--environment=tests.environment.test_config:Looking"])
    with pytest.raises(ConfigError, match="seen enough"):
        async with open_environment(run):
            pass
    assert seen == {"words": 3, "given": {"words"}}
