"""Makes a task from a family, a difficulty and a seed: the same task on any machine and in any process."""

from __future__ import annotations

import random
from dataclasses import fields

from atropos_agent.errors import ConfigError
from atropos_environments.terminal_tasks.families import (
    counting,
    editing,
    finding,
    moving,
    system,
    tables,
    text,
)
from atropos_environments.terminal_tasks.families.draft import BUILDERS
from atropos_environments.terminal_tasks.task import DIFFICULTIES, Task
from atropos_environments.terminal_tasks.words import Namer

# Importing these modules registers their builders.
_MODULES = (counting, editing, finding, moving, system, tables, text)


def families() -> tuple[str, ...]:
    """Names of all task families, sorted."""
    return tuple(sorted(BUILDERS))


def generate(family: str, difficulty: int, seed: int) -> Task:
    """The task `family/difficulty/seed`. Raises ConfigError for an unknown family or difficulty."""
    if family not in BUILDERS:
        raise ConfigError(f"no task family {family!r}; there are: {', '.join(families())}")
    if difficulty not in DIFFICULTIES:
        raise ConfigError(f"difficulty {difficulty!r} is not one of {DIFFICULTIES}")
    identity = f"{family}/{difficulty}/{seed}"
    rng = random.Random(identity)  # a text seed does not depend on the process's hash seed
    draft = BUILDERS[family](rng, Namer(rng, difficulty), difficulty)
    drafted = {field.name: getattr(draft, field.name) for field in fields(draft)}
    return Task(id=identity, family=family, difficulty=difficulty, seed=seed, **drafted)


def task_from_id(identity: str) -> Task:
    """The task that an id like "count_lines/2/17" names. Raises ConfigError if it names none."""
    family, _, rest = identity.partition("/")
    difficulty, _, seed = rest.partition("/")
    if not (difficulty.isdecimal() and seed.isdecimal()):
        raise ConfigError(f"{identity!r} is not a task id; use family/difficulty/seed, e.g. count_lines/2/17")
    return generate(family, int(difficulty), int(seed))
