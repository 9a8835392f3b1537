"""An environment without tools, so without a sandbox: answer with the word, backwards."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from atropos_agent.config import AgentConfig, EnvConfig, SandboxConfig
from atropos_agent.environment import AgentEnv, Reference
from atropos_agent.testing import FakePolicy
from tests.tokenizers_for_tests import chatml_renderer

RENDERER = chatml_renderer()
STOP = int(RENDERER.certificate.close_ids[0])


@dataclass(frozen=True)
class Word:
    id: str
    hints: Mapping[str, object] = field(default_factory=dict)


class EchoConfig(EnvConfig):
    """The author's own field, and no tools by default."""

    words: int = 3
    tools: tuple[str, ...] = ()


class Echo(AgentEnv[Word, EchoConfig]):
    """Scores 1 for the word backwards."""

    name: ClassVar[str] = "echo"

    async def setup(self) -> None:
        letters = random.Random(self.config.seed)
        self._words = iter(["".join(letters.choices("abcdef", k=5)) for _ in range(self.config.words)])

    async def get_next_item(self) -> Word | None:
        word = next(self._words, None)
        return None if word is None else Word(word)

    def build_task(self, item: Word) -> str:
        return f"Write {item.id} backwards."

    def score_trajectory(self, item: Word, final_response: str) -> float:
        return float(final_response.strip() == item.id[::-1])

    async def reference(self, item: Word) -> Reference:
        return Reference((), item.id[::-1])


def solve(messages, step):
    """A script for FakePolicy: the right answer."""
    return messages[1]["content"].split()[1][::-1]


def echo(env_type=Echo, scripts=solve, *, retries=0, sandbox=None, agent=None, **config):
    """An environment of this type, whose policy plays `scripts`."""
    return env_type(
        FakePolicy(scripts, RENDERER, stop_id=STOP),
        RENDERER,
        config=env_type.config_type(infrastructure_retries=retries, **config),
        agent=agent or AgentConfig(),
        sandbox=sandbox or SandboxConfig(),
    )
