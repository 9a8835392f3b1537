"""stub"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    """What a dialect marks reasoning with, and its control texts."""

    reasoning_open: str = ""
    reasoning_close: str = ""
    control_texts: tuple[str, ...] = ()
