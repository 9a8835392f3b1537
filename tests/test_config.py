from pathlib import Path

import pytest

from atropos_agent.config import DebugSettings, load_run_config
from atropos_agent.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_unknown_key_names_its_place_and_the_nearest_known_one(tmp_path):
    path = write(tmp_path, "environment: terminal_tasks\nagent: {temprature: 1}\n")
    with pytest.raises(ConfigError, match=r"agent\.temprature: unknown key; did you mean 'temperature'\?"):
        load_run_config(path, environ={})


def test_wrong_type_names_its_place_and_value(tmp_path):
    path = write(tmp_path, "environment: terminal_tasks\ncollect: {groups: many}\n")
    with pytest.raises(ConfigError, match=r"collect\.groups: .*got 'many'"):
        load_run_config(path, environ={})


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00"])
def test_what_is_no_mapping_is_refused_with_its_path(tmp_path, text):
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_run_config(write(tmp_path, text), environ={})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_run_config(tmp_path / "absent.yaml", environ={})


def test_precedence_from_generic_variables_to_the_command_line(tmp_path):
    path = write(tmp_path, "environment: terminal_tasks\npolicy: {model: from-file}\n")
    generic = {"OPENAI_BASE_URL": "http://generic/v1", "LLM_MODEL": "generic"}
    own = {**generic, "ATROPOS_SERVER_MODEL": "own"}
    flags = ["--policy.model=flag", "--env.group_size=4"]
    assert load_run_config(path, environ=generic).policy.model == "from-file"
    assert load_run_config(path, environ=generic).policy.base_url == "http://generic/v1"
    assert load_run_config(path, environ=own).policy.model == "own"
    given = load_run_config(path, flags, own)
    assert (given.policy.model, given.env) == ("flag", {"group_size": 4})


def test_embedded_policy_heeds_no_variable_but_the_command_line(tmp_path):
    path = write(tmp_path, "environment: terminal_tasks\npolicy: embedded\n")
    environ = {"ATROPOS_SERVER_BASE_URL": "http://other/v1", "OPENAI_API_KEY": "sk-secret"}
    assert load_run_config(path, environ=environ).policy.kind == "embedded"
    moved = load_run_config(path, ["--policy=http://127.0.0.1:1/v1"], {})
    assert (moved.policy.kind, moved.policy.base_url) == ("http", "http://127.0.0.1:1/v1")


@pytest.mark.parametrize("policy", ["embedded", "{kind: embedded, max_concurrency: 4}"])
def test_a_url_on_the_command_line_moves_an_embedded_policy_to_that_server(tmp_path, policy):
    path = write(tmp_path, f"environment: terminal_tasks\npolicy: {policy}\n")
    environ = {"ATROPOS_SERVER_BASE_URL": "http://other/v1", "OPENAI_API_KEY": "sk-secret"}
    flags = ["--policy.model=m", "--policy.base_url=http://127.0.0.1:1/v1"]
    moved = load_run_config(path, flags, environ).policy
    assert (moved.kind, moved.base_url, moved.model) == ("http", "http://127.0.0.1:1/v1", "m")
    assert moved.api_key is not None
    kept = load_run_config(path, [*flags, "--policy.kind=embedded"], environ).policy
    assert (kept.kind, kept.api_key) == ("embedded", None)


def test_no_key_reaches_a_dump(tmp_path):
    path = write(tmp_path, "environment: terminal_tasks\npolicy: {api_key: sk-secret}\n")
    assert "sk-secret" not in load_run_config(path, environ={}).model_dump_json()


@pytest.mark.parametrize("flag", ["env.seed=1", "--env.seed", "--env..seed=1", "--env.seed=[1"])
def test_malformed_override_is_quoted(tmp_path, flag):
    with pytest.raises(ConfigError, match="cannot read"):
        load_run_config(write(tmp_path, "environment: terminal_tasks\n"), [flag], {})


def test_debug_settings_read_every_variable():
    settings = DebugSettings.from_environ(
        {
            "ATROPOS_BYPASS_MANAGED_SERVER": "1",
            "ATROPOS_DEBUG_AGENT_REQUEST": "1",
            "ATROPOS_DEBUG_AGENT_REQUEST_FULL": "0",
            "ATROPOS_DEBUG_AGENT_REQUEST_SAVE_DIR": "/tmp/saved",
            "ATROPOS_DEBUG_AGENT_RESPONSE": "1",
            "ATROPOS_AGENT_CHAT_TIMEOUT_S": "0",
            "ATROPOS_DEBUG_AGENT_WAIT_EVERY_S": "2.5",
            "ATROPOS_DIRECT_REQUEST_TIMEOUT_S": "7",
            "ATROPOS_DEBUG_PRINT_TASK": "1",
        }
    )
    assert settings == DebugSettings(
        bypass_managed_server=True,
        debug_request=True,
        request_save_dir=Path("/tmp/saved"),
        debug_response=True,
        chat_timeout_s=None,
        wait_every_s=2.5,
        direct_request_timeout_s=7.0,
        print_task=True,
    )


def test_bad_variables_are_named_with_their_values():
    with pytest.raises(
        ConfigError, match=r"ATROPOS_DEBUG_AGENT_REQUEST='maybe'.*ATROPOS_AGENT_CHAT_TIMEOUT_S='x'"
    ):
        DebugSettings.from_environ(
            {"ATROPOS_AGENT_CHAT_TIMEOUT_S": "x", "ATROPOS_DEBUG_AGENT_REQUEST": "maybe"}
        )
