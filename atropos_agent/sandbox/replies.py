"""What a supervisor answers about a command, in the words of the host."""

from __future__ import annotations

from typing import TypeVar

from atropos_agent.sandbox.inside import frames, report
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus

StatusT = TypeVar("StatusT", ExecStatus, ExecStatus | None)


def report_of(frame: frames.Frame, kept: int) -> report.Report:
    """The report in a reply, where a stream keeps at most `kept` bytes. Raises FrameError."""
    if "fatal" in frame.meta:
        raise frames.FrameError(f"the supervisor failed: {frame.meta['fatal']!s:.500}")
    return report.unpack(frame.payload, kept)


def result_of(said: report.Report) -> ExecResult:
    """How a command ended. Raises FrameError where it has not."""
    status = status_of(said)
    if status is None:
        raise frames.FrameError("a command that is over is said to run")
    return ExecResult(*fields_of(said, status), said.cpu_s)


def fields_of(
    said: report.Report, status: StatusT
) -> tuple[StatusT, int | None, bytes, bytes, float, int | None, int, int]:
    """The fields that `ExecResult` and `JobReport` have in common, in their order, with this `status`."""
    exit_code, signal = (None, None) if status is None else exit_of(said.code)
    return (
        status,
        exit_code,
        said.stdout,
        said.stderr,
        said.duration_s,
        signal,
        said.stdout_bytes,
        said.stderr_bytes,
    )


def status_of(said: report.Report) -> ExecStatus | None:
    """None while it runs."""
    if said.status == "running":
        return None
    return status_of_exit(exit_of(said.code)[0]) if said.status == "exited" else ExecStatus(said.status)


def exit_of(code: int) -> tuple[int | None, int | None]:
    """Exit code and signal, of which one is None, of a code as `subprocess` has it."""
    return (code, None) if code >= 0 else (None, -code)


def status_of_exit(exit_code: int | None) -> ExecStatus:
    """OK, NONZERO, or KILLED where there is no exit code."""
    if exit_code is None:
        return ExecStatus.KILLED
    return ExecStatus.OK if exit_code == 0 else ExecStatus.NONZERO
