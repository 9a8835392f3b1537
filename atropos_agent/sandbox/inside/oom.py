"""Whom the kernel ends when memory runs out."""

from __future__ import annotations

import os
from types import TracebackType

_FIRST_TO_GO = b"1000"


class Expendable:
    """A context: what is started in it is chosen by the kernel rather than we are.

    A child is born with the preference of its parent, so ours is raised for that moment: cheaper than to
    change the child's. To be made before the process may no longer be looked at.
    """

    def __init__(self) -> None:
        self._score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        self._ours = os.read(self._score, 16)

    def __enter__(self) -> None:
        os.write(self._score, _FIRST_TO_GO)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._score, self._ours)
