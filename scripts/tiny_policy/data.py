"""Encoded dialogues on disk: shards that a second process fills while the first one trains."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from scripts.tiny_policy.dialogues import FIRST_WEIGHTS, LAST_WEIGHTS, Spoken, dialogue, tasks
from scripts.tiny_policy.tokenizer import TURN_END, TURN_START

SHARD_DIALOGUES = 4096
SLIP_SHARE = 0.08
FIRST_SHARDS = 17
"""Shards of the lower difficulties; all that follow have every difficulty."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One dialogue after its system message: ids int16[T], trained bool[T] (the assistant's own tokens)."""

    ids: NDArray[np.int16]
    trained: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Dialogues side by side: ids int64[B, T] padded with 0, trained bool[B, T], tokens without padding."""

    ids: NDArray[np.int64]
    trained: NDArray[np.bool_]
    tokens: int


def encode_system(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of the system message."""
    return _encode(tokenizer, f"{TURN_START}system\n{prompt}{TURN_END}\n")


def encode_dialogue(tokenizer: Tokenizer, spoken: Sequence[Spoken]) -> Example:
    """Encode piece by piece, as at run time: sampled text is never encoded together with its context."""
    ids: list[int] = []
    trained: list[bool] = []

    def add(text: str, is_trained: bool) -> None:
        piece = _encode(tokenizer, text)
        ids.extend(piece)
        trained.extend([is_trained] * len(piece))

    for message, is_trained in spoken:
        if message["role"] == "assistant":
            add(f"{TURN_START}assistant\n", False)
            add(f"{message['content']}{TURN_END}", is_trained)
            add("\n", False)
        else:
            add(f"{TURN_START}user\n{message['content']}{TURN_END}\n", False)
    # Without the newline after the last turn: at run time nothing follows that turn.
    return Example(np.array(ids[:-1], np.int16), np.array(trained[:-1], np.bool_))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def write_shards(tokenizer_file: Path, folder: Path, *, seed: int, count: int) -> None:
    """Fill `folder` with `count` shards, one after the other; a shard is complete when its name appears."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    first, last = tasks(seed, FIRST_WEIGHTS), tasks(seed, LAST_WEIGHTS)
    rng = random.Random(f"slips {seed}")
    for number in range(count):
        stream = first if number < FIRST_SHARDS else last
        examples = [
            encode_dialogue(tokenizer, dialogue(task, rng, SLIP_SHARE))
            for task in islice(stream, SHARD_DIALOGUES)
        ]
        partial = folder / f"shard-{number:03d}.partial.npz"
        np.savez(
            partial,
            ids=np.concatenate([example.ids for example in examples]),
            trained=np.concatenate([example.trained for example in examples]),
            lengths=np.array([len(example.ids) for example in examples], np.int32),
        )
        partial.rename(folder / f"shard-{number:03d}.npz")


def read_shard(path: Path) -> list[Example]:
    """The examples of one shard."""
    with np.load(path) as shard:
        ends = np.cumsum(shard["lengths"])[:-1]
        ids, trained = np.split(shard["ids"], ends), np.split(shard["trained"], ends)
    return [Example(*pair) for pair in zip(ids, trained, strict=True)]


def batches(folder: Path, *, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of dialogues of similar length.

    Shards are read in order as they appear; if the next one does not exist yet, from the first again.
    """
    rng = random.Random(f"batches {seed}")
    number = 0
    while True:
        path = folder / f"shard-{number:03d}.npz"
        if not path.exists():
            number = 0
            continue
        yield from _batches_of(read_shard(path), size, rng)
        number += 1


def _batches_of(examples: list[Example], size: int, rng: random.Random) -> Iterator[Batch]:
    # Similar lengths need little padding; the noise makes other batches at each pass.
    examples.sort(key=lambda example: len(example.ids) + rng.random() * 24)
    groups = [examples[at : at + size] for at in range(0, len(examples) - size + 1, size)]
    rng.shuffle(groups)
    for group in groups:
        length = max(len(example.ids) for example in group)
        ids = np.zeros((size, length), np.int64)
        trained = np.zeros((size, length), np.bool_)
        for row, example in enumerate(group):
            ids[row, : len(example.ids)] = example.ids
            trained[row, : len(example.ids)] = example.trained
        yield Batch(ids, trained, sum(len(example.ids) for example in group))
