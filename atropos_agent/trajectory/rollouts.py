"""Scored attempts at an item, and the group of them that is baselined together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NotRequired, TypeAlias, TypedDict

from atropos_agent.errors import AmbiguousTrajectory
from atropos_agent.trajectory.messages import Message
from atropos_agent.trajectory.results import AgentResult
from atropos_agent.trajectory.values import Json

MAIN = "agent"
"""The name of the trace of a rollout with one agent."""


@dataclass(frozen=True, slots=True)
class Score:
    """A verifier's judgement: the reward, its named parts, and further data for the record.

    `step_rewards`: one for each step, None for steps without one; empty where steps are not rewarded.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    step_rewards: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one agent did in a rollout. `parent_call` is the call id by which another agent started it.

    `score` is None exactly when it must not be scored; `parts` are its named parts. `step_rewards` has one
    entry a step, or none at all.
    """

    result: AgentResult
    name: str = MAIN
    trainable: bool = True
    parent_call: str | None = None
    score: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    step_rewards: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One attempt at one item, scored or failed: one trace for each agent that took part.

    `result`, `score`, `parts` and `step_rewards` are those of the only trainable trace; they raise
    AmbiguousTrajectory where several are trainable. `isolation` is what the sandbox really enforced.
    """

    id: str
    item_id: str
    index: int
    traces: tuple[Trace, ...]
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    isolation: Mapping[str, Json] = field(default_factory=dict[str, Json])
    started_at: float = 0.0
    duration_s: float = 0.0
    attempts: int = 1

    @property
    def trace(self) -> Trace:
        """The only trainable trace, or the first where none is. Raises AmbiguousTrajectory."""
        trainable = [trace for trace in self.traces if trace.trainable]
        if len(trainable) > 1:
            names = ", ".join(trace.name for trace in trainable)
            raise AmbiguousTrajectory(
                f"rollout {self.id!r} has {len(trainable)} trainable traces ({names}); iterate `traces`"
            )
        return trainable[0] if trainable else self.traces[0]

    @property
    def result(self) -> AgentResult:
        """What the trained agent recorded. Raises AmbiguousTrajectory."""
        return self.trace.result

    @property
    def score(self) -> float | None:
        """The reward; None where the rollout must not be scored. Raises AmbiguousTrajectory."""
        return self.trace.score

    @property
    def parts(self) -> Mapping[str, float]:
        """The named parts of the score. Raises AmbiguousTrajectory."""
        return self.trace.parts

    @property
    def step_rewards(self) -> tuple[float | None, ...]:
        """One reward or None for each step; empty where there are none. Raises AmbiguousTrajectory."""
        return self.trace.step_rewards

    @property
    def is_scored(self) -> bool:
        """True where there is a trainable trace and each of them has a score."""
        scores = [trace.score for trace in self.traces if trace.trainable]
        return bool(scores) and None not in scores


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """The rollouts of one item that are baselined together; `repetition` counts passes over the items."""

    item_id: str
    repetition: int
    rollouts: tuple[Rollout, ...]


class ScoredDataGroup(TypedDict):
    """Exactly atroposlib's keys; every list has one entry per rollout. `inference_logprobs` is absent
    where any trained token lacks a logprob."""

    tokens: list[list[int]]
    masks: list[list[int]]
    scores: list[float]
    advantages: list[list[float]] | None
    ref_logprobs: list[list[float]] | None
    messages: list[list[Message]] | None
    generation_params: dict[str, Json] | None
    inference_logprobs: NotRequired[list[list[float]]]
    group_overrides: dict[str, Json] | None
    overrides: list[dict[str, Json]] | None
    images: list[Json] | None


GroupKey: TypeAlias = tuple[str, int]
"""Item id and repetition: what names a group within a run."""
