"""Scheduling: draws items, bounds the groups in flight, writes groups to the log, stops and resumes.

Does not know agents, HTTP or sandboxes: a rollout is a coroutine of the environment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atropos_agent.config import CollectConfig
from atropos_agent.environment import AgentEnv, Item
from atropos_agent.environment.blame import task_errors
from atropos_agent.errors import (
    AtroposAgentError,
    ConfigError,
    ProviderError,
    RecordError,
    RenderError,
    SandboxError,
    TaskError,
)
from atropos_agent.export import Rules, is_mixed, rows_of, sequences_left_out, trainable
from atropos_agent.record import RunDir
from atropos_agent.record.log import ZERO_VARIANCE
from atropos_agent.trajectory import (
    Failure,
    FailureKind,
    Json,
    Provenance,
    Rollout,
    RolloutGroup,
    StopReason,
    Trace,
)

logger: logging.Logger = logging.getLogger(__name__)
ItemT = TypeVar("ItemT", bound=Item)

FAILED_GROUPS_TO_STOP = 3
_ERRORS: Mapping[FailureKind, type[AtroposAgentError]] = {
    FailureKind.RENDER: RenderError,
    FailureKind.SANDBOX: SandboxError,
    FailureKind.TASK: TaskError,
    FailureKind.CONFIG: ConfigError,
}
"""The error that ends a run after FAILED_GROUPS_TO_STOP failed groups in a row, by the kind of the last
failure; ProviderError for every other kind."""


@dataclass(slots=True)
class Progress:
    """Counts of a run so far, for the display and the metrics. Times in seconds."""

    groups_total: int
    groups_done: int = 0
    groups_resumed: int = 0
    groups_mixed: int = 0
    groups_failed: int = 0
    rollouts_started: int = 0
    rollouts_done: int = 0
    sampled_tokens: int = 0
    reward_sum: float = 0.0
    rewards: int = 0
    sequences_left_out: int = 0
    trained_tokens: int = 0
    breaks: Counter[str] = field(default_factory=Counter[str])
    steps: Counter[str] = field(default_factory=Counter[str])
    stop_reasons: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    started: float = field(default_factory=time.monotonic)

    @property
    def in_flight(self) -> int:
        """Rollouts started and not finished, including those that wait for a sandbox."""
        return self.rollouts_started - self.rollouts_done

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run was started or resumed."""
        return time.monotonic() - self.started

    @property
    def mean_reward(self) -> float | None:
        """Over all scored rollouts; None before the first."""
        return self.reward_sum / self.rewards if self.rewards else None

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens per second."""
        return self.sampled_tokens / max(self.elapsed_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Estimated time left; None before the first group of this session."""
        if not self.groups_done:
            return None
        remaining = self.groups_total - self.groups_done - self.groups_resumed
        return self.elapsed_s / self.groups_done * max(remaining, 0)

    def count(self, rollout: Rollout) -> None:
        """Count one finished rollout."""
        self.rollouts_done += 1
        for trace in rollout.traces:
            self._count_trace(trace)
        for trace in trainable(rollout):
            self.stop_reasons[trace.result.stop_reason] += 1
            if trace.score is not None:
                self.rewards += 1
                self.reward_sum += trace.score

    def _count_trace(self, trace: Trace) -> None:
        result = trace.result
        self.sampled_tokens += result.total_tokens
        self.breaks.update(found.kind.value for found in result.breaks)
        self.steps.update(step.completion.provenance for step in result.steps)
        if result.failure is not None:
            self.errors[result.failure.error_type] += 1

    def metrics(self) -> dict[str, Json]:
        """One line of `metrics.jsonl`."""
        return {
            "time": time.time(),
            "groups_done": self.groups_done,
            "groups_resumed": self.groups_resumed,
            "groups_mixed": self.groups_mixed,
            "groups_failed": self.groups_failed,
            "rollouts_done": self.rollouts_done,
            "mean_reward": self.mean_reward,
            "sampled_tokens": self.sampled_tokens,
            "trained_tokens": self.trained_tokens,
            "tokens_per_s": round(self.tokens_per_s, 3),
            "stop_reasons": dict(self.stop_reasons),
            "errors": dict(self.errors),
            "breaks": dict(self.breaks),
            "sequences_left_out": self.sequences_left_out,
            "sampled_step_share": self.sampled_step_share,
        }

    @property
    def sampled_step_share(self) -> float | None:
        """The share of steps whose ids the server reported."""
        total = self.steps.total()
        return self.steps[Provenance.SAMPLED] / total if total else None


class Collector(Generic[ItemT]):
    """Collects `config.groups` groups of `env` into `log`. To stop, cancel `run`: finished rollouts are kept.

    Groups already in the log are skipped. Finished rollouts of unfinished groups are reused.
    """

    def __init__(self, env: AgentEnv[ItemT], log: RunDir, config: CollectConfig) -> None:
        self.env: AgentEnv[ItemT] = env
        self.log: RunDir = log
        self.config: CollectConfig = config
        self.progress: Progress = Progress(config.groups)
        self._failed_in_a_row = 0
        self._writes: set[asyncio.Task[None]] = set()

    async def _write(self, write: Callable[..., None], *arguments: object) -> None:
        """Write in a thread. If the caller is cancelled, the write continues, and `run` waits for it."""
        task = asyncio.create_task(asyncio.to_thread(write, *arguments))
        self._writes.add(task)
        task.add_done_callback(self._written)
        await asyncio.shield(task)

    def _written(self, task: asyncio.Task[None]) -> None:
        """Forget a finished write. Log its failure: a caller that was cancelled does not see it."""
        self._writes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("a write failed: %s", error)

    async def run(self) -> Progress:
        """Collect until done. Finished groups and rollouts are in the log, also if this raises.

        Raises ProviderError, or the error of `_ERRORS`, after FAILED_GROUPS_TO_STOP groups in a row failed;
        RunDirectoryError if the log cannot be written.
        """
        slots, size = self.env.sandbox_config.slots, self.env.config.group_size
        # one group more than fills the slots: the next group uses the slots that the last rollouts leave free
        width = asyncio.Semaphore(-(-slots // size) + 1)
        try:
            async with asyncio.TaskGroup() as tasks:
                async for item, repetition in self._items():
                    await width.acquire()
                    task = tasks.create_task(self._collect(item, repetition))
                    task.add_done_callback(lambda _: width.release())
        except* Exception as failures:  # callers handle plain errors, not the group of a TaskGroup
            raise _first(failures) from None
        finally:
            if self._writes:  # writes of cancelled callers run on; the caller closes the log after this
                await asyncio.wait(self._writes)
        return self.progress

    async def _items(self) -> AsyncIterator[tuple[ItemT, int]]:
        """The items still to collect, each with the number of earlier draws of its id."""
        seen: Counter[str] = Counter()
        for _ in range(self.config.groups):
            # a resume draws finished items too, so that the environment's stream of items is the same
            with task_errors(f"get_next_item of {self.env.name}"):
                item = await self.env.get_next_item()
            if item is None:
                logger.warning(
                    "the environment has %d items, %d groups were asked for", seen.total(), self.config.groups
                )
                return
            repetition = seen[item.id]
            seen[item.id] += 1
            if (item.id, repetition) in self.log.finished:
                self.progress.groups_resumed += 1
            else:
                yield item, repetition

    async def _collect(self, item: ItemT, repetition: int) -> None:
        known = await asyncio.to_thread(self.log.pending, item.id, repetition)
        size = self.env.config.group_size
        self.progress.rollouts_started += size - len(known)

        async def keep(rollout: Rollout) -> None:
            self.progress.count(rollout)
            # a cancelled rollout in `pending/` would count as finished after a resume
            if rollout.is_scored and not _was_cancelled(rollout):
                await self._write(self.log.add_rollout, item.id, repetition, rollout)
            else:
                await self._write(self.log.add_metrics, _unscored(rollout))

        group = await self.env.collect_group(item, repetition=repetition, known=known, on_rollout=keep)
        if self.env.is_complete(group) and not any(map(_was_cancelled, group.rollouts)):
            await self._deliver(group)
        else:
            self._fail(group)
        await self._write(self.log.add_metrics, self.progress.metrics())

    async def _deliver(self, group: RolloutGroup) -> None:
        dropped = None
        try:
            rows = rows_of(group, Rules.of(self.env.config))
        except RecordError as error:  # still recorded below, with the reason; only exporters leave it out
            logger.warning("group %s cannot be delivered: %s", group.item_id, error)
            dropped = type(error).__name__
            self.progress.errors[dropped] += 1
        else:
            if is_mixed(rows):
                self.progress.groups_mixed += 1
            elif self.config.zero_variance == "drop":
                dropped = ZERO_VARIANCE
            self.progress.sequences_left_out += sequences_left_out(group, rows)
            if dropped is None:
                self.progress.trained_tokens += sum(row.trained_tokens for row in rows)
        await self._write(self.log.add_group, group, dropped)
        self.progress.groups_done += 1
        self._failed_in_a_row = 0

    def _fail(self, group: RolloutGroup) -> None:
        """Count an incomplete group; a resume collects it again. A group that is incomplete only because of
        cancelled rollouts does not count towards FAILED_GROUPS_TO_STOP."""
        self.progress.groups_failed += 1
        failure = next(filter(None, map(_failure_of, group.rollouts)), None)
        if failure is None:
            logger.warning("group %s is incomplete: a rollout has no score", group.item_id)
            return
        self._failed_in_a_row += 1
        logger.warning("group %s is incomplete: %s", group.item_id, failure.text)
        if self._failed_in_a_row >= FAILED_GROUPS_TO_STOP:
            last = f"the last with {failure.error_type}: {failure.text}"
            raise _ERRORS.get(failure.kind, ProviderError)(
                f"{self._failed_in_a_row} groups in a row failed, {last}"
            )


def _was_cancelled(rollout: Rollout) -> bool:
    """True if the rollout was cancelled: it is never recorded as finished, and a resume samples it again.

    The main trace decides. An agent that a tool ran and cancelled is part of what happened.
    """
    return rollout.traces[0].result.stop_reason is StopReason.CANCELLED


def _failure_of(rollout: Rollout) -> Failure | None:
    """Why `rollout` has no score; None if it has one, or was cancelled."""
    if rollout.is_scored or _was_cancelled(rollout):
        return None
    return next((trace.result.failure for trace in rollout.traces if trace.result.failure), None)


def _unscored(rollout: Rollout) -> dict[str, Json]:
    """The line of `metrics.jsonl` for a rollout that could not be scored or was cancelled."""
    failure = _failure_of(rollout)
    return {
        "time": time.time(),
        "failed": rollout.id,
        "attempts": rollout.attempts,
        "stop_reason": rollout.traces[0].result.stop_reason.value,
        "steps": sum(trace.result.num_steps for trace in rollout.traces),
        "error_type": None if failure is None else failure.error_type,
        "error": None if failure is None else failure.text,
    }


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    """The first plain exception inside nested groups."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    assert isinstance(failure, Exception)
    return failure
