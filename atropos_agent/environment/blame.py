"""Who caused the failure of an attempt, and what follows: whether it is scored, whether it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from atropos_agent.errors import AtroposAgentError, ContextOverflow, SandboxLost, TaskError
from atropos_agent.trajectory import AgentResult, Blame, Failure, Rollout, Score, StopReason


@contextmanager
def task_errors(what: str) -> Iterator[None]:
    """The one boundary to an environment's own code: what it raises becomes a TaskError that names `what`.

    Our own errors pass, because they say more. So does the cancellation of the current task; a CancelledError
    that the code raised by itself does not.
    """
    try:
        yield
    except AtroposAgentError:
        raise
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        raise TaskError(f"{what} failed: it awaited something that was cancelled") from error
    except Exception as error:
        raise TaskError(f"{what} failed: {type(error).__name__}: {error}") from error


def failure_of_task_code(error: AtroposAgentError) -> Failure:
    """What an environment's own code failed with. A judge's prompt that is too long is not the policy's."""
    return Failure.of(error, blame=Blame.TASK if isinstance(error, ContextOverflow) else None)


def not_started(error: AtroposAgentError) -> AgentResult:
    """The record of an attempt that did not get as far as the agent."""
    return AgentResult(False, "", StopReason.ERROR, failure=failure_of_task_code(error))


def broken_off(result: AgentResult, error: AtroposAgentError) -> AgentResult:
    """`result` of a conversation that the environment's own code ended with `error`."""
    failure = failure_of_task_code(error)
    return replace(result, success=False, stop_reason=StopReason.ERROR, failure=failure)


def is_unscorable(result: AgentResult) -> bool:
    """True where the result must not be scored: it was cancelled, or its failure is not the policy's."""
    others = result.failure is not None and result.failure.blame is not Blame.POLICY
    return others or result.stop_reason is StopReason.CANCELLED


def unverified(result: AgentResult, error: AtroposAgentError) -> tuple[AgentResult, Score | None]:
    """What becomes of `result` when its verifier failed with `error`.

    The sandbox of a rollout that ran out of time is ended under a command that would not end: the policy's
    doing, and scored 0.
    """
    if isinstance(error, SandboxLost) and result.stop_reason is StopReason.WALL_TIME:
        return replace(result, failure=Failure.of(error, blame=Blame.POLICY)), Score(0.0)
    return replace(result, failure=failure_of_task_code(error)), None


def failure_to_retry(rollout: Rollout) -> Failure | None:
    """The failure because of which `rollout` should be tried again.

    Task code that failed is not: sampling until a verifier has nothing to complain of bends the rewards.
    """
    main = rollout.traces[0]
    failure = main.result.failure
    if main.score is not None or failure is None or main.result.stop_reason is StopReason.CANCELLED:
        return None
    return failure if failure.retryable and failure.blame is Blame.INFRASTRUCTURE else None
