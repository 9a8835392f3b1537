import pytest

from atropos_agent import AgentEnv
from atropos_agent.errors import ConfigError, PluginNotFound
from atropos_agent.plugins import load
from tests.spelling import Spelling


def test_a_class_of_ones_own_is_found_by_its_path():
    assert load("environments", "tests.spelling:Spelling", expected=AgentEnv) is Spelling


@pytest.mark.parametrize("name", [":X", "..a:B", "a:", "a..b:C", "a:B.", "os path:x"])
def test_a_path_that_cannot_be_one_is_refused_with_its_shape(name):
    with pytest.raises(PluginNotFound, match=r"written package\.module:Class"):
        load("environments", name)


@pytest.mark.parametrize("name", ["no_such_module:X", "os:no_such_thing"])
def test_what_cannot_be_imported_is_named_with_the_reason(name):
    with pytest.raises(PluginNotFound, match="no_such"):
        load("tools", name)


@pytest.mark.parametrize("name", ["os:path", "os:getcwd", "tests.spelling:Word"])
def test_an_object_of_another_kind_is_refused(name):
    with pytest.raises(ConfigError, match="not a subclass of AgentEnv"):
        load("environments", name, expected=AgentEnv)


def test_a_class_with_open_methods_is_refused_with_their_names():
    with pytest.raises(ConfigError, match="does not define build_task, get_next_item"):
        load("environments", "atropos_agent:AgentEnv", expected=AgentEnv)


def test_an_unknown_name_reads_as_sentences_with_and_without_a_near_one():
    with pytest.raises(PluginNotFound, match=r"no environment named 'nope'\. Installed: "):
        load("environments", "nope")
    with pytest.raises(PluginNotFound, match=r"did you mean 'terminal_tasks'\? Installed: "):
        load("environments", "terminal_task")
