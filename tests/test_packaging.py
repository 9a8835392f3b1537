import importlib
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import atropos_agent
import atropos_tools
from atropos_agent import errors
from atropos_agent.plugins import installed

PUBLIC = [
    "AgentConfig",
    "AgentEnv",
    "AgentResult",
    "AgentStep",
    "Allow",
    "AtroposAgent",
    "AtroposAgentError",
    "Attempt",
    "CallablePolicy",
    "Deny",
    "EmbeddedPolicy",
    "EnvConfig",
    "Event",
    "EventType",
    "Failure",
    "FileEntry",
    "HttpPolicy",
    "Message",
    "Policy",
    "Reference",
    "Renderer",
    "Replace",
    "Reward",
    "Rollout",
    "RolloutGroup",
    "Rubric",
    "Run",
    "RunConfig",
    "Sandbox",
    "SandboxError",
    "SandboxPool",
    "Score",
    "ScoredDataGroup",
    "SequenceData",
    "StopReason",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolRegistry",
    "ToolResult",
    "ToolSchema",
    "Trace",
    "TurnResult",
    "check_environment",
    "load_run_config",
    "open_environment",
]
CORE = [
    "datasets",
    "httpx",
    "httpx-aiohttp",
    "jinja2",
    "jsonschema",
    "numpy",
    "orjson",
    "pyarrow",
    "pydantic",
    "python-dotenv",
    "pyyaml",
    "referencing",
    "regex",
    "rich",
    "tenacity",
    "transformers",
    "typer",
    "typing-extensions",
    "wandb",
]


def test_the_public_names_are_these_and_resolve():
    assert sorted(atropos_agent.__all__) == atropos_agent.__all__ == PUBLIC
    assert all(getattr(atropos_agent, name) is not None for name in PUBLIC)
    assert dir(atropos_agent) == PUBLIC


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Agnt'"):
        _ = atropos_agent.Agnt


@pytest.mark.parametrize(
    "heavy", ["transformers", "datasets", "wandb", "torch", "httpx", "pydantic", "numpy"]
)
def test_importing_the_package_imports_nothing_heavy(heavy):
    code = f"import sys, atropos_agent; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_built_in_tool_and_environment_is_registered():
    tools = {point.value.partition(":")[0] for point in installed("tools").values()}
    modules = {f"atropos_tools.{module.name}" for module in pkgutil.iter_modules(atropos_tools.__path__)}
    assert tools == {name for name in modules if not name.rpartition(".")[2].startswith("_")}
    assert set(installed("environments")) == {"terminal_tasks"}


@pytest.mark.parametrize("kind", ["tools", "environments"])
def test_every_entry_point_loads(kind):
    assert all(point.load().__doc__ for point in installed(kind).values())


def test_the_core_dependencies_are_these_and_no_torch():
    given = [Requirement(text) for text in requires("atropos-agent") or []]
    assert sorted(item.name for item in given if item.marker is None) == CORE


def test_every_error_has_a_standard_parent_and_pickles():
    import pickle

    found = [
        error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)
    ]
    for error in found:
        revived = pickle.loads(pickle.dumps(error("what happened")))
        assert (type(revived), str(revived)) == (error, "what happened")
        if error is not errors.AtroposAgentError:
            assert any(
                base.__module__ == "builtins" and base is not Exception for base in error.__mro__[1:-3]
            )


def test_every_package_is_marked_as_typed():
    for name in ("atropos_agent", "atropos_tools", "atropos_environments"):
        module = importlib.import_module(name)
        assert (Path(module.__path__[0]) / "py.typed").exists()


def test_the_version_is_that_of_the_metadata():
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert importlib.import_module("importlib.metadata").version("atropos-agent") == project["version"]
