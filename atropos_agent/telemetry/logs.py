"""Logging to stderr, redaction, and a heartbeat for waits. Nothing is printed to stdout."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Collection
from types import TracebackType

from atropos_agent.telemetry.in_flight import Entry

ROOT = "atropos_agent"
SHORTEST_SECRET = 6
"""Shorter keys ("local", "none") are placeholders: replacing them would damage ordinary words in the log."""

_BEARER = re.compile(r"(?i)(bearer\s+)[^\s\"',;]+")
_USERINFO = re.compile(r"(?i)(https?://)[^/@\s]+@")


def debug_logger(name: str) -> logging.Logger:
    """The logger `name` at INFO. It writes to stderr if the application has configured no logging."""
    logger = logging.getLogger(name)
    # never raise the level: the application may have asked for DEBUG
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
    """Logs `still waiting: <entry> (Ns)` every `every_s` seconds inside a `with`; cancels nothing.

    Target and phase are read from the in-flight `entry` when the line is written.
    """

    __slots__ = ("_entry", "_every_s", "_logger", "_timer")

    def __init__(self, logger: logging.Logger, entry: Entry, every_s: float | None) -> None:
        self._logger = logger
        self._entry = entry
        self._every_s = every_s
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Heartbeat:
        if self._every_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._beat, self._every_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, every_s: float) -> None:
        entry = self._entry
        self._logger.info("still waiting: %s, %s (%.0fs)", entry.name, entry.state, entry.age_s)
        self._timer = asyncio.get_running_loop().call_later(every_s, self._beat, every_s)
