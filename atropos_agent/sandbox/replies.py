"""What a supervisor answers about a command, checked: the numbers must fit each other and the budget."""

from __future__ import annotations

from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus


def result_of(frame: frames.Frame, kept: int) -> ExecResult:
    """A reply as a result. Raises FrameError."""
    if "fatal" in frame.meta:
        raise frames.FrameError(f"the supervisor failed: {frame.meta['fatal']!s:.500}")
    stdout, stderr, totals = output_of(frame, kept)
    status, exit_code, signal = outcome_of(frame)
    used_s = frame.meta.get("cpu_s")
    return ExecResult(
        status=status,
        exit_code=exit_code,
        stdout=stdout,
        stderr=stderr,
        duration_s=frames.number(frame.meta, "duration_s"),
        signal=signal,
        stdout_bytes=totals[0],
        stderr_bytes=totals[1],
        cpu_s=None if used_s is None else frames.number(frame.meta, "cpu_s"),
    )


def output_of(frame: frames.Frame, kept: int) -> tuple[bytes, bytes, tuple[int, int]]:
    """Stdout and stderr as kept, and how long each was. Raises FrameError."""
    cut = frames.integer(frame.meta, "stdout")
    stdout, stderr = frame.payload[:cut], frame.payload[cut:]
    totals = frames.integer(frame.meta, "stdout_bytes"), frames.integer(frame.meta, "stderr_bytes")
    if not 0 <= cut <= len(frame.payload) or max(len(stdout), len(stderr)) > kept:
        raise frames.FrameError(f"a reply of {len(frame.payload)} bytes of output, cut at {cut}")
    if totals[0] < len(stdout) or totals[1] < len(stderr):
        raise frames.FrameError(f"output totals {totals} below what was sent")
    return stdout, stderr, totals


def outcome_of(frame: frames.Frame) -> tuple[ExecStatus, int | None, int | None]:
    """Status, exit code and signal. Raises FrameError."""
    exit_code = None if frame.meta.get("exit_code") is None else frames.integer(frame.meta, "exit_code")
    signal = None if frame.meta.get("signal") is None else frames.integer(frame.meta, "signal")
    return _status(frames.text(frame.meta, "status"), exit_code), exit_code, signal


def status_of_exit(exit_code: int | None) -> ExecStatus:
    """OK, NONZERO, or KILLED where there is no exit code."""
    if exit_code is None:
        return ExecStatus.KILLED
    return ExecStatus.OK if exit_code == 0 else ExecStatus.NONZERO


def _status(word: str, exit_code: int | None) -> ExecStatus:
    if word == "exited":
        return status_of_exit(exit_code)
    try:
        return ExecStatus(word)
    except ValueError as error:
        raise frames.FrameError(f"unknown status {word!r:.80}") from error
