"""The conformance test for environments of any author: what must hold before a run uses one."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic

from atropos_agent.environment.agent_env import AgentEnv
from atropos_agent.environment.contract import ItemT
from atropos_agent.environment.leaks import Footprint
from atropos_agent.errors import TaskError
from atropos_agent.policy import Policy
from atropos_agent.policy.protocol import ANONYMOUS, Capabilities, Prompt, RequestInfo, Wire
from atropos_agent.trajectory import Completion, SamplingParams


class Rule(StrEnum):
    """What is checked."""

    OPENS = "it opens, gives items and closes"
    DETERMINISTIC = "the same seed gives the same items in the same order"
    IDS = "an item's id is a text that stands for this item alone"
    PICKLABLE = "items can be pickled"
    REFERENCES = "reference solutions score 1"
    EMPTY = "doing nothing earns 0"
    LEAKS = "nothing is left behind"


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one rule holds; where it does not, `detail` says what was found."""

    rule: Rule
    holds: bool
    detail: str = ""


async def check_environment(
    make: Callable[[Policy], AgentEnv[ItemT]], *, items: int = 4
) -> tuple[Finding, ...]:
    """Check an environment on its first `items` items; needs no model.

    `make` is the class, or e.g. `functools.partial(MyEnv, config=MyConfig(...))`. It is called twice: both
    instances must give the same items, and what the second leaves behind is a leak. Processes and descriptors
    that are left are seen on Linux only. Run it alone: what other code of the process starts meanwhile counts
    as left behind. Where the environment does not open, or has no items, that is the only finding.
    """
    first = await _Examination[ItemT]().of(make, items)
    before = Footprint.now()  # after a whole pass: what is made once per process is not a leak
    second = await _Examination[ItemT]().of(make, items)
    left = await before.left_behind()
    problems = second.problems | first.problems
    if Rule.OPENS in problems:
        return (Finding(Rule.OPENS, holds=False, detail=problems[Rule.OPENS]),)
    problems[Rule.DETERMINISTIC] = _difference(first.items, second.items)
    problems[Rule.LEAKS] = "; ".join(left)
    details = {rule: problems.get(rule, "") for rule in Rule}
    return tuple(Finding(rule, holds=not detail, detail=detail) for rule, detail in details.items())


def require_all(findings: Sequence[Finding]) -> None:
    """Raise TaskError with what does not hold, if anything."""
    if broken := [f"not true that {found.rule}: {found.detail}" for found in findings if not found.holds]:
        raise TaskError("\n".join(["the environment does not conform:", *broken]))


@dataclass(slots=True)
class _Examination(Generic[ItemT]):
    """The test of one instance: its items, and the first problem with each rule."""

    items: list[ItemT] = field(default_factory=list[ItemT])
    problems: dict[Rule, str] = field(default_factory=dict[Rule, str])

    async def of(self, make: Callable[[Policy], AgentEnv[ItemT]], count: int) -> _Examination[ItemT]:
        """Open, draw, examine each item, close."""
        try:
            async with make(_Silent()) as env:
                await self._draw(env, count)
                for item in self.items:
                    await self._examine(env, item)
        except Exception as error:  # an exception of the environment is a finding, not our failure
            self._note(Rule.OPENS, _in_words(error))
        if not self.items:
            self._note(Rule.OPENS, "it gave no items")
        return self

    async def _draw(self, env: AgentEnv[ItemT], count: int) -> None:
        for _ in range(count):
            if (item := await env.get_next_item()) is None:
                return
            self.items.append(item)

    async def _examine(self, env: AgentEnv[ItemT], item: ItemT) -> None:
        checks: dict[Rule, Callable[[AgentEnv[ItemT], ItemT], Awaitable[str]]] = {
            Rule.IDS: self._id_problem,
            Rule.PICKLABLE: _pickle_problem,
            Rule.REFERENCES: _reference_problem,
            Rule.EMPTY: _empty_problem,
        }
        for rule, check in checks.items():
            try:
                problem = await check(env, item)
            except Exception as error:  # as above
                problem = _in_words(error)
            if problem:
                self._note(rule, f"item {item.id!r:.80}: {problem}")

    def _note(self, rule: Rule, problem: str) -> None:
        self.problems.setdefault(rule, problem)

    async def _id_problem(self, env: AgentEnv[ItemT], item: ItemT) -> str:
        given: object = item.id
        if not isinstance(given, str) or not given:
            return f"an id must be a text that is not empty, got {given!r:.80}"
        if any(other.id == given and not _same(other, item) for other in self.items):
            return "another item has the same id"
        if type(env).get_item is not AgentEnv.get_item and not _same(await env.get_item(given), item):
            return "get_item gives another item for this id"
        return ""


async def _pickle_problem(_env: AgentEnv[ItemT], item: ItemT) -> str:
    copy: ItemT = pickle.loads(pickle.dumps(item))  # noqa: S301 - what was written a moment ago
    return "" if _same(copy, item) else "it is another item after pickling"


async def _reference_problem(env: AgentEnv[ItemT], item: ItemT) -> str:
    (found,) = await env.validate([item])
    return "" if found.reference_score == 1.0 else f"its reference solution scores {found.reference_score:g}"


async def _empty_problem(env: AgentEnv[ItemT], item: ItemT) -> str:
    main = (await env.rollout(item)).traces[0]
    if main.score is None:
        return f"a rollout with an empty answer could not be scored: {main.result.error}"
    if main.score != 0.0:
        return f"a rollout with an empty answer earned {main.score:g}"
    try:
        (found,) = await env.validate([item])
    except Exception:  # the rule on references reports it
        return ""
    return "" if found.empty_score == 0.0 else f"doing nothing scores {found.empty_score:g}"


def _difference(first: Sequence[ItemT], second: Sequence[ItemT]) -> str:
    if len(first) != len(second):
        return f"one instance gave {len(first)} items, another {len(second)}"
    for number, (one, other) in enumerate(zip(first, second, strict=True), 1):
        if one.id != other.id:
            return f"item {number} was {one.id!r:.80} in one instance and {other.id!r:.80} in another"
        if not _same(one, other):
            return f"item {number}, {one.id!r:.80}, has other contents in another instance"
    return ""


def _same(one: object, other: object) -> bool:
    """False where they differ: by their own `==`, and in content where their type does not define it."""
    try:
        if one == other:
            return True
    except Exception:  # noqa: S110 - e.g. arrays inside have no truth value
        pass
    try:
        return _canonical(one) == _canonical(other)
    except Exception:  # unknown, so not a finding here: items that cannot be pickled have one of their own
        return True


def _canonical(value: object) -> bytes:
    """A pickle of a copy: it does not tell which equal texts were one object in `value`."""
    return pickle.dumps(pickle.loads(pickle.dumps(value)))  # noqa: S301 - what was written a moment ago


def _in_words(error: BaseException) -> str:
    """The first plain exception inside nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


class _Silent:
    """A policy that answers with an empty text at once."""

    async def probe(self) -> Capabilities:
        """A server that renders its prompts itself, so that no tokenizer is needed."""
        return Capabilities(wire=Wire.CHAT, model="silent", server="silent")

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """No text, no tokens."""
        return Completion(text="", sampling=sampling, model="silent")

    async def aclose(self) -> None:
        """There is nothing to release."""
