"""What an examination finds, one check at a time, and the verdict over all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

LOOK = "look at the server's own log"


class Grade(StrEnum):
    """What a check means for collecting trajectories."""

    GOOD = "good"
    LOSS = "loss"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, and the act that fixes it, if there is one."""

    name: str
    grade: Grade
    text: str
    act: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst of all checks in one line, and the next act."""

    grade: Grade
    text: str
    act: str


def judge(checks: Sequence[Check], ready: str, act: str) -> Verdict:
    """`ready` and `act` where every check is good; else what is lost or broken, and the first cure."""
    for grade, words in ((Grade.BAD, "not usable"), (Grade.LOSS, "usable with loss")):
        found = [check for check in checks if check.grade is grade]
        if found:
            texts = dict.fromkeys(check.text for check in found)
            cure = next((check.act for check in found if check.act), LOOK if grade is Grade.BAD else act)
            return Verdict(grade, f"{words}: {'; '.join(texts)}", cure)
    unchecked = [check.name for check in checks if check.grade is Grade.UNKNOWN]
    but = f"; could not be checked: {', '.join(unchecked)}" if unchecked else ""
    return Verdict(Grade.GOOD, f"ready: {ready}{but}", act)
