"""Names for tasks, drawn from a seeded generator: plain words first, harder names at higher difficulties."""

from __future__ import annotations

import random
import re

LEXICON = tuple(
    """
    acorn amber apple arrow atlas badge bamboo basil beach bell berry birch blade bloom board boat
    bone book boot bowl brick brush cabin cable candle canoe card cedar chain chalk cherry chess
    cliff clock cloud clover coal coin coral corn cotton crane creek crown curve daisy desert dove
    dragon drum dune eagle ember engine falcon fern field flame flint flute forest fossil fox frost
    garden ginger glass globe gold grape hammer harbor hazel heron hill honey horn island ivory ivy
    jade jelly jewel kettle kite ladder lake lamp laurel leaf lemon lily linen lion lotus magnet
    maple marble meadow melon mint mirror moon moss nectar needle nest oak oasis ocean olive onion
    opal orange orbit otter oyster paper pearl pebble pepper piano pilot pine plum pond poppy prism
    quartz quill rabbit rain raven reef ribbon river robin rocket rose ruby saddle sage sail salt
    sand scarf seed shell silk silver sketch slate smoke snow spark spice spoon stone storm straw
    sugar sun swan table tea thorn thread tiger timber tower trail tulip tunnel turtle valley velvet
    violet wagon walnut water wheat willow wind wolf wool zebra
    """.split()  # noqa: SIM905 - a list literal would be 200 lines
)
_ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


class Namer:
    """Unique names for one task.

    Difficulty 1 uses words of the lexicon, 2 mixes in made-up two-syllable words, 3 adds numbered ones,
    4 adds names with spaces, 5 adds names that a careless command mistakes for options or patterns.
    """

    def __init__(self, rng: random.Random, difficulty: int) -> None:
        self._rng = rng
        self._difficulty = difficulty
        self._used: set[str] = set()

    def word(self) -> str:
        """A lower-case word, never twice in one task and never inside another one of it."""
        while True:
            word = self._draw()
            # No name may contain another: a grep or sed for one word must not hit another one.
            if not any(word in used or used in word for used in self._used):
                self._used.add(word)
                return word

    def words(self, count: int) -> list[str]:
        """`count` different words."""
        return [self.word() for _ in range(count)]

    def stem(self) -> str:
        """A file or folder name without extension."""
        word = self.word()
        if self._difficulty >= 5 and self._rng.random() < 0.4:
            return self._rng.choice(
                (f"-{word}", f"{word}*", f"{word} & {self.word()}", f"{word}'s", f"[{word}]")
            )
        if self._difficulty >= 4 and self._rng.random() < 0.6:
            return f"{word} {self.word()}"
        if self._difficulty == 3 and self._rng.random() < 0.3:
            return f"{word}{self._rng.randint(1, 9)}"
        return word

    def file(self, extension: str = "") -> str:
        """A file name, by default with a common extension."""
        return self.stem() + (extension or self._rng.choice((".txt", ".txt", ".log", ".md")))

    def _draw(self) -> str:
        made_up = 0.0 if self._difficulty == 1 else 0.35
        if self._rng.random() >= made_up:
            return self._rng.choice(LEXICON)
        return "".join(self._rng.choice(_ONSETS) + self._rng.choice(_VOWELS) for _ in range(2))


def shown(path: str) -> str:
    """`path` as a prompt writes it: in double quotes unless it is plain."""
    return path if _PLAIN.fullmatch(path) else f'"{path}"'


def lines(rows: list[str]) -> bytes:
    """Rows as a text file with a final newline."""
    return "".join(f"{row}\n" for row in rows).encode()
