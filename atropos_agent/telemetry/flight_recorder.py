"""The flight recorder: a JSONL file of the stalls of a run, with their causes and ends."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

LARGEST_FILE = 16 << 20
"""In bytes. An event that would exceed it is not written."""


class FlightRecorder:
    """Appends one JSON object per line to `path`.

    Errors of writing are ignored: diagnostics must never fail a run.
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
                    os.write(fd, line)  # one unbuffered call: a crash of this process cannot cut the line
            finally:
                os.close(fd)
        except OSError:
            return
