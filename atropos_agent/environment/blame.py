"""Who caused the failure of an attempt, and the result: whether it is scored, whether it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from atropos_agent.errors import AtroposAgentError, ContextOverflow, SandboxLost, TaskError, is_failure
from atropos_agent.trajectory import AgentResult, Blame, Failure, Rollout, Score, StopReason


@contextmanager
def task_errors(what: str) -> Iterator[None]:
    """The one boundary to an environment's own code: its exceptions become a TaskError that names `what`.

    This package's errors pass unchanged, because they are more specific. The cancellation of the current task
    passes too; a CancelledError that the code raised by itself does not, and neither does its `exit()`.
    """
    try:
        yield
    except AtroposAgentError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        if isinstance(error, asyncio.CancelledError):
            raise TaskError(f"{what} failed: it awaited something that was cancelled") from error
        raise TaskError(f"{what} failed: {type(error).__name__}: {error}") from error


def failure_of_task_code(error: AtroposAgentError) -> Failure:
    """The failure of an environment's own code. A judge's prompt that is too long is not the policy's."""
    return Failure.of(error, blame=Blame.TASK if isinstance(error, ContextOverflow) else None)


def not_started(error: AtroposAgentError) -> AgentResult:
    """The record of an attempt that failed before the agent started."""
    return AgentResult(False, "", StopReason.ERROR, failure=failure_of_task_code(error))


def outcome_of(
    result: AgentResult, passed_over: AgentResult | None, broken: AtroposAgentError | None
) -> AgentResult:
    """`result` of a conversation, as it is to be judged.

    A turn that failed and was passed over decides: the conversation after it is not the one that the policy
    should have had. `broken` is the error with which the environment's own code ended the conversation; if a
    turn had failed before, that failure is the cause.
    """
    if passed_over is not None:
        why, failure = passed_over.stop_reason, passed_over.failure
        return replace(result, success=False, stop_reason=why, failure=failure)
    if broken is None or (result.failure is not None and result.failure.blame is Blame.INFRASTRUCTURE):
        return result
    failure = failure_of_task_code(broken)
    return replace(result, success=False, stop_reason=StopReason.ERROR, failure=failure)


def is_unscorable(result: AgentResult) -> bool:
    """True where the result must not be scored: it was cancelled, or its failure is not the policy's."""
    others = result.failure is not None and result.failure.blame is not Blame.POLICY
    return others or result.stop_reason is StopReason.CANCELLED


def unverified(result: AgentResult, error: AtroposAgentError) -> tuple[AgentResult, Score | None]:
    """`result` and its score after its verifier failed with `error`.

    If the rollout ran out of time, its sandbox was killed under a command that did not end. The policy caused
    that, so the score is 0.
    """
    if isinstance(error, SandboxLost) and result.stop_reason is StopReason.WALL_TIME:
        return replace(result, failure=Failure.of(error, blame=Blame.POLICY)), Score(0.0)
    return replace(result, failure=failure_of_task_code(error)), None


def failure_to_retry(rollout: Rollout) -> Failure | None:
    """The failure because of which `rollout` should be tried again; None if it should not.

    Failed task code is not tried again: sampling until a verifier succeeds would bias the rewards.
    """
    main = rollout.traces[0]
    failure = main.result.failure
    if main.score is not None or failure is None or main.result.stop_reason is StopReason.CANCELLED:
        return None
    return failure if failure.retryable and failure.blame is Blame.INFRASTRUCTURE else None
