"""What a supervisor says of a program: a record of fixed size, before what is kept of its output.

Every command ends with one, so it is packed, not JSON.
"""

from __future__ import annotations

import math
import struct
from typing import Literal, NamedTuple, get_args

from atropos_agent.sandbox.inside.capture import Capture
from atropos_agent.sandbox.inside.frames import LARGEST, FrameError

Status = Literal["exited", "running", "killed", "timeout", "oom", "output_limit", "disk_full"]
STATUSES: tuple[Status, ...] = get_args(Status)
RECORD = struct.Struct("!BiQQQqdd")
"""Index of the status, code, sizes of what is kept of stdout, of all stdout, of all stderr, memory kills
(below zero where they could not be counted), duration, CPU time (NaN where it was not measured)."""

_NUMBERS = {status: number for number, status in enumerate(STATUSES)}

Parts = tuple[bytes, bytes, bytes]
"""Of a payload: the record, what is kept of stdout and of stderr."""


class Report(NamedTuple):
    """How a program did.

    `code` is its exit code, or the signal that ended it as a number below zero; 0 while it runs. `stdout` and
    `stderr` are what is kept of the streams, in all `stdout_bytes` and `stderr_bytes` long.
    """

    status: Status
    code: int
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    memory_kills: int
    duration_s: float
    cpu_s: float | None


def pack(
    status: Status,
    code: int,
    stdout: Capture,
    stderr: Capture,
    *,
    duration_s: float,
    cpu_s: float = math.nan,
    memory_kills: int = 0,
) -> Parts:
    """The payload that says so."""
    out = stdout.value()
    record = RECORD.pack(
        _NUMBERS[status], code, len(out), stdout.total, stderr.total, memory_kills, duration_s, cpu_s
    )
    return record, out, stderr.value()


def unpack(payload: bytes, kept: int) -> Report:
    """What such a payload says; the numbers must fit each other and the `kept` bytes a stream may have.

    Raises FrameError.
    """
    if len(payload) < RECORD.size:
        raise FrameError(f"a report of {len(payload)} bytes; it takes {RECORD.size}")
    number, code, cut, stdout_bytes, stderr_bytes, kills, duration_s, cpu_s = RECORD.unpack_from(payload)
    end = RECORD.size + cut
    stdout, stderr = payload[RECORD.size : end], payload[end:]
    if number >= len(STATUSES):
        raise FrameError(f"unknown status {number}")
    if end > len(payload) or cut > kept or len(stderr) > kept:
        raise FrameError(f"a report of {len(payload)} bytes, cut at {end}, where {kept} are kept")
    if stdout_bytes < cut or stderr_bytes < len(stderr):
        raise FrameError(f"output totals {stdout_bytes}, {stderr_bytes} below what was sent")
    if not 0 <= duration_s < LARGEST or not (0 <= cpu_s < LARGEST or math.isnan(cpu_s)):
        raise FrameError(f"{duration_s} s of time and {cpu_s} s of CPU time")
    used_s = None if math.isnan(cpu_s) else cpu_s
    return Report(
        STATUSES[number], code, stdout, stderr, stdout_bytes, stderr_bytes, kills, duration_s, used_s
    )
