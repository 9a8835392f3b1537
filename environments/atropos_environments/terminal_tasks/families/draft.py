"""What a family builder returns, the registry of builders, and the phrases that families share."""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable
from typing import TypeAlias

from atropos_environments.terminal_tasks.task import Draft, Turn
from atropos_environments.terminal_tasks.words import LEXICON, Namer, lines

NUMBER_ONLY = ("Answer with the number only.", "Reply with just the number.", "Give only the number.")
PATH_ONLY = ("Answer with the path only.", "Reply with just its path.", "Give only the path.")
NAME_ONLY = ("Answer with the file name only.", "Reply with just the name.", "Give only the file name.")
TEXT_ONLY = ("Answer with it only.", "Reply with just that.", "Give nothing else.")


Builder: TypeAlias = Callable[[random.Random, Namer, int], Draft]
BUILDERS: dict[str, Builder] = {}


def family(builder: Builder) -> Builder:
    """Register a builder under its own name."""
    BUILDERS[builder.__name__] = builder
    return builder


def run(*commands: str) -> tuple[Turn, ...]:
    """A solution of plain commands, one turn each."""
    return tuple(Turn(command) for command in commands)


def q(path: str) -> str:
    """`path` quoted for the shell, so that no command reads it as an option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def sentence(rng: random.Random, count: int, avoid: str = "") -> str:
    """`count` words of the lexicon, with repetitions; none of them contains `avoid`."""
    pool = [word for word in LEXICON if avoid not in word] if avoid else LEXICON
    return " ".join(rng.choice(pool) for _ in range(count))


def rows(rng: random.Random, count: int, per_row: int = 2, avoid: str = "") -> list[str]:
    """`count` rows of one to `per_row` words."""
    return [sentence(rng, rng.randint(1, per_row), avoid) for _ in range(count)]


def decoys(
    rng: random.Random, names: Namer, count: int, folder: str = "", avoid: str = ""
) -> dict[str, bytes]:
    """`count` small files that the task does not mention."""
    made: dict[str, bytes] = {}
    for _ in range(count):
        made[f"{folder}{names.file()}"] = lines(rows(rng, rng.randint(1, 3), avoid=avoid))
    return made
