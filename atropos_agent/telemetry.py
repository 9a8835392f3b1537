"""Logging to stderr, redaction, and a heartbeat for waits. Nothing here prints to stdout."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Collection
from types import TracebackType

ROOT = "atropos_agent"
SHORTEST_SECRET = 6
"""Shorter keys ("local", "none") are placeholders; cutting them out would damage ordinary words."""

_BEARER = re.compile(r"(?i)(bearer\s+)[^\s\"',;]+")
_USERINFO = re.compile(r"(?i)(https?://)[^/@\s]+@")


def debug_logger(name: str) -> logging.Logger:
    """The logger `name` at INFO, on stderr where the application has configured no logging itself."""
    logger = logging.getLogger(name)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logging.getLogger(ROOT).addHandler(handler)
    return logger


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """`text` without `secrets`, bearer tokens and user names or passwords in URLs."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _USERINFO.sub(r"\1***@", _BEARER.sub(r"\1***", text))


class Heartbeat:
    """Logs `still waiting: <what>, <phase> (Ns)` every `every_s` seconds inside a `with`; cancels nothing.

    `phase` may be set on the way: it is the reason of the wait.
    """

    __slots__ = ("_every_s", "_logger", "_since", "_timer", "_what", "phase")

    def __init__(self, logger: logging.Logger, what: str, every_s: float | None) -> None:
        self._logger = logger
        self._what = what
        self._every_s = every_s
        self.phase: str = "generating"
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Heartbeat:
        if self._every_s is not None:
            self._since = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._beat, self._every_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, every_s: float) -> None:
        waited_s = time.monotonic() - self._since
        self._logger.info("still waiting: %s, %s (%.0fs)", self._what, self.phase, waited_s)
        self._timer = asyncio.get_running_loop().call_later(every_s, self._beat, every_s)
