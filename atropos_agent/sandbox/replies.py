"""What a supervisor answers about a command, in the words of the host."""

from __future__ import annotations

from atropos_agent.sandbox.inside import frames, report
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus


def report_of(frame: frames.Frame, kept: int) -> report.Report:
    """The report in a reply, where a stream keeps at most `kept` bytes. Raises FrameError."""
    if "fatal" in frame.meta:
        raise frames.FrameError(f"the supervisor failed: {frame.meta['fatal']!s:.500}")
    return report.unpack(frame.payload, kept)


def result_of(said: report.Report) -> ExecResult:
    """How a command ended. Raises FrameError where it has not."""
    status, exit_code, signal = outcome_of(said)
    return ExecResult(
        status,
        exit_code,
        said.stdout,
        said.stderr,
        said.duration_s,
        signal,
        said.stdout_bytes,
        said.stderr_bytes,
        said.cpu_s,
    )


def outcome_of(said: report.Report) -> tuple[ExecStatus, int | None, int | None]:
    """Status, exit code and signal. Raises FrameError where it still runs."""
    exit_code, signal = (said.code, None) if said.code >= 0 else (None, -said.code)
    if said.status == "exited":
        return status_of_exit(exit_code), exit_code, signal
    if said.status == "running":
        raise frames.FrameError("a command that is over is said to run")
    return ExecStatus(said.status), exit_code, signal


def status_of_exit(exit_code: int | None) -> ExecStatus:
    """OK, NONZERO, or KILLED where there is no exit code."""
    if exit_code is None:
        return ExecStatus.KILLED
    return ExecStatus.OK if exit_code == 0 else ExecStatus.NONZERO
