"""Regular expressions of schemas, run on text that a model wrote, in bounded time.

Python's `re` can backtrack without end; the `regex` library takes a time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import regex

PATTERN_TIME_S = 0.25
"""CPU seconds that all patterns of one check may take together."""

_DOLLARS = regex.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", regex.DOTALL)


class PatternTimeout(Exception):
    """`pattern` took too long on `text`."""

    def __init__(self, pattern: str, text: str) -> None:
        super().__init__(pattern, text)
        self.pattern = pattern
        self.text = text


class _Budget(threading.local):
    """What is left of the time of the check that runs in this thread."""

    left_s: float = 0.0


_budget = _Budget()


@contextmanager
def limited_time() -> Iterator[None]:
    """Give the patterns of one check their time."""
    _budget.left_s = PATTERN_TIME_S
    yield


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` occurs in `text`. Raises PatternTimeout."""
    # thread_time: on a busy machine a thread can wait long for a CPU without any backtracking.
    started = time.thread_time()
    try:
        return compiled(pattern).search(text, timeout=max(_budget.left_s, 0.0)) is not None
    except TimeoutError:
        raise PatternTimeout(pattern, text) from None
    finally:
        _budget.left_s -= time.thread_time() - started


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> regex.Pattern[str]:
    """`pattern` ready for use. Raises regex.error.

    In JSON Schema (ECMA 262) `$` is the end of the text; in Python it also is before a last line end.
    """
    return regex.compile(_DOLLARS.sub(lambda found: r"\Z" if found[0] == "$" else found[0], pattern))
