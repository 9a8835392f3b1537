"""A rubric: named, weighted reward functions give a score and its parts. Independent of environments."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from atropos_agent.errors import AtroposAgentError, ConfigError, TaskError, is_failure
from atropos_agent.sandbox import Sandbox
from atropos_agent.trajectory import AgentResult, Score

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Attempt(Generic[ItemT]):
    """What a reward function judges: the arguments of `verify_and_score_trajectory`."""

    item: ItemT
    result: AgentResult
    sandbox: Sandbox
    workspace_meta: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def answer(self) -> str:
        """The final answer; "" where the run did not end with one."""
        return self.result.final_response if self.result.success else ""


RewardFunction: TypeAlias = Callable[[Attempt[ItemT]], float | Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Reward(Generic[ItemT]):
    """One part of a score.

    A coroutine function runs on the event loop. Any other function runs in a thread of its own, so that it
    may block, and must be thread-safe, because several rollouts are scored at once. `timeout_s` bounds both,
    but a thread cannot be killed: a function that never returns keeps its thread until the process ends.
    A `weight` of 0 records the part and leaves it out of the score. Raises ConfigError for a bad number.
    """

    name: str
    function: RewardFunction[ItemT]
    weight: float = 1.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a reward needs a name: its part of the score is recorded under it")
        if not math.isfinite(self.weight):
            raise ConfigError(f"reward {self.name!r}: weight must be a finite number, got {self.weight!r}")
        if not self.timeout_s > 0:
            raise ConfigError(f"reward {self.name!r}: timeout_s must be above 0, got {self.timeout_s!r}")

    async def value(self, attempt: Attempt[ItemT]) -> float:
        """What the function gives for `attempt`, unweighted.

        Raises a TaskError that names the function if it raises, is late, or gives anything but a finite
        number. This package's errors pass unchanged: they say who failed, e.g. a judge's server.
        """
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                found = await self._called(attempt)
        except AtroposAgentError:
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise self._failed(error) from error
            raise TaskError(f"reward {self.name!r} did not return within {self.timeout_s:g} s") from error
        except BaseException as error:
            if not is_failure(error):
                raise
            raise self._failed(error) from error
        if not isinstance(found, int | float) or not math.isfinite(found):
            raise TaskError(f"reward {self.name!r} must give a finite number, got {found!r:.80}")
        return float(found)

    async def _called(self, attempt: Attempt[ItemT]) -> object:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(attempt)
        found = await _in_thread(self.function, attempt, name=f"reward {self.name}")
        # e.g. a lambda or a partial that returns a coroutine: await it on the event loop
        return await found if inspect.isawaitable(found) else found

    def _failed(self, error: BaseException) -> TaskError:
        return TaskError(f"reward {self.name!r} failed: {type(error).__name__}: {error}")


class Rubric(Generic[ItemT]):
    """Reward functions whose weighted sum is the score.

    The sum is not divided by the weights: a penalty has a negative weight, and one more part must not change
    what the others are worth. Choose weights that add up to 1 for a score in [0, 1].
    """

    def __init__(self, rewards: Sequence[Reward[ItemT]]) -> None:
        """Raises ConfigError where there is no reward, or two have one name."""
        names = [reward.name for reward in rewards]
        if not names:
            raise ConfigError("a rubric needs at least one Reward")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"a rubric records each part by its name, but has several called {twice}")
        self.rewards: tuple[Reward[ItemT], ...] = tuple(rewards)

    async def score(
        self,
        item: ItemT,
        result: AgentResult,
        *,
        sandbox: Sandbox,
        workspace_meta: Mapping[str, object] | None = None,
    ) -> Score:
        """The weighted sum, with the raw value of each function as a part.

        The functions run one after the other, because they share one sandbox. Raises TaskError for the first
        that fails: a part that is not known is never counted as 0.
        """
        attempt = Attempt(item, result, sandbox, workspace_meta or {})
        parts = {reward.name: await reward.value(attempt) for reward in self.rewards}
        return Score(math.fsum(reward.weight * parts[reward.name] for reward in self.rewards), parts)


async def _in_thread(function: RewardFunction[ItemT], attempt: Attempt[ItemT], *, name: str) -> object:
    """Call `function` in a new daemon thread.

    Not in the executor of the loop: a function that never returns would keep one of its few threads, on which
    the record is written, and would keep the process from ending.
    """
    done: Future[tuple[object, BaseException | None]] = Future()
    context = copy_context()  # as asyncio.to_thread does: a new thread begins with an empty context

    def work() -> None:
        try:
            outcome: tuple[object, BaseException | None] = (context.run(function, attempt), None)
        except BaseException as error:  # also SystemExit: it must not end the thread without an outcome
            outcome = (None, error)
        if done.set_running_or_notify_cancel():
            done.set_result(outcome)

    threading.Thread(target=work, name=name, daemon=True).start()
    value, error = await asyncio.wrap_future(done)
    if error is None:
        return value
    raise error if isinstance(error, Exception) else RuntimeError(repr(error)) from error
