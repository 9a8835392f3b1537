"""The flight recorder: a file of lines that says, after the fact, what stalled, when, and how it ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

LARGEST_FILE = 16 << 20
"""Bytes; after them a run has said enough, and nothing more is written."""


class FlightRecorder:
    """Appends one JSON object a line to `path`; each is written by a single call, so a crash tears none.

    A file that cannot be written is given up silently: the recorder must never add to the trouble.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        """Append `{"time", "event", **fields}`; `time` in seconds since the epoch."""
        told = {"time": time.time(), "event": event, **fields}
        line = json.dumps(told, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                if os.fstat(fd).st_size + len(line) <= LARGEST_FILE:
                    os.write(fd, line)
            finally:
                os.close(fd)
        except OSError:
            return
