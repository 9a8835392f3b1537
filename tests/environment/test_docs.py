"""The examples of docs/environments.md run as they stand."""

import itertools
import re
import sys
import types
from pathlib import Path

import pytest

from atropos_agent.config import AgentConfig
from atropos_agent.environment.agent_env import AgentEnv
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import text_of
from tests.environment.echoing import RENDERER, STOP

BLOCKS = re.findall(r"```python\n(.*?)```", Path("docs/environments.md").read_text(), re.DOTALL)


@pytest.fixture
def guess():
    """The module that the blocks of the page make; registered, so that its items can be pickled."""
    module = types.ModuleType("guess_of_the_docs")
    module.AgentConfig = AgentConfig
    sys.modules[module.__name__] = module
    exec(BLOCKS[0], vars(module))
    yield module
    del sys.modules[module.__name__]


def halving(messages, step):
    """Guess in the middle of what is left."""
    low, high = 1, 100
    for message, reply in itertools.pairwise(messages):
        if message["role"] == "assistant":
            guess = int(text_of(message))
            low, high = (guess + 1, high) if text_of(reply) == "larger" else (low, guess - 1)
    return str((low + high) // 2)


async def test_the_number_is_guessed_with_the_help_of_the_user(guess):
    config = guess.GuessConfig(hints=7)
    async with guess.Guess(FakePolicy(halving, RENDERER, stop_id=STOP), RENDERER, config=config) as env:
        rollout = await env.rollout(guess.Riddle("number/37", 37))
    steps = rollout.result.num_steps
    assert steps == 3  # 50, 25, 37
    assert rollout.parts == {"found": 1.0, "quick": pytest.approx(1 / steps)}
    assert rollout.score == pytest.approx(0.8 + 0.2 / steps)


async def test_the_environment_of_the_docs_conforms(guess):
    exec(BLOCKS[2], vars(guess))
    await guess.test_guess_conforms()


def test_the_environment_of_the_docs_leaves_alone_what_a_run_sets(guess):
    exec(f"class Short(Guess):\n{BLOCKS[1]}", vars(guess))
    assert issubclass(guess.Short, AgentEnv)
    chosen = [
        guess.Short(FakePolicy([]), agent=agent).agent_config.max_steps
        for agent in (AgentConfig(), AgentConfig(max_steps=50))
    ]
    assert chosen == [8, 50]
