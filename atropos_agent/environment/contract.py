"""The data types of an environment, and pure functions on them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import TypeVar

from atropos_agent.config import EnvConfig, SandboxConfig
from atropos_agent.sandbox import Isolation, SandboxSpec
from atropos_agent.trajectory import Json, Score, ToolCall


class Item(Protocol):
    """One task instance of an environment. `id` is stable: it names the same item in every run."""

    @property
    def id(self) -> str:
        """The stable name."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
ConfigT_co = TypeVar("ConfigT_co", bound=EnvConfig, default=EnvConfig, covariant=True)
"""Covariant: an environment with its own config type fits where `AgentEnv[Item]` is expected."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A known good solution: the calls to make, and the final answer."""

    calls: Sequence[ToolCall]
    answer: str


@dataclass(frozen=True, slots=True)
class Validation:
    """What `validate` found for one item: the scores of its reference solution and of doing nothing."""

    item_id: str
    reference_score: float
    empty_score: float

    @property
    def holds(self) -> bool:
        """True where the reference scores 1 and doing nothing scores 0."""
        return self.reference_score == 1.0 and self.empty_score == 0.0


def unusable(score: Score, steps: int) -> str | None:
    """What makes `score` unusable for a rollout with `steps` steps; None if it is usable."""
    if not isinstance(score, Score):
        return f"{score!r}; it must give a Score"
    for name, value in {"value": score.value, **score.parts}.items():
        if not _is_finite(value):
            return f"{name} {value!r}; it must be a finite number"
    if score.step_rewards and len(score.step_rewards) != steps:
        return f"{len(score.step_rewards)} step_rewards for {steps} steps; give one a step, or none at all"
    for number, reward in enumerate(score.step_rewards, 1):
        if reward is not None and not _is_finite(reward):
            return f"step_rewards with {reward!r} for step {number}; it must be a finite number or None"
    try:
        json.dumps(dict(score.metadata))
    except (TypeError, ValueError) as error:
        return f"metadata that cannot be written as JSON: {error}"
    return None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def rollout_seed(run_seed: int, rollout_id: str, attempt: int) -> int:
    """The sampling seed of one attempt, in [0, 2**64)."""
    digest = hashlib.blake2b(f"{run_seed}/{rollout_id}/{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def isolation_as_data(isolation: Isolation) -> dict[str, Json]:
    """The form in which it is recorded."""
    return {"backend": isolation.backend, "unsafe": isolation.unsafe, "limits": dict(isolation.limits)}


def sandbox_spec(config: SandboxConfig) -> SandboxSpec:
    """What the config asks of each sandbox."""
    return SandboxSpec(
        workspace_bytes=config.workspace_mb << 20,
        memory_bytes=config.memory_mb << 20,
        processes=config.processes,
        image=config.image,
        cpus=config.cpus,
        cpu_s=config.cpu_s,
        readonly_binds=config.readonly_binds,
        template=config.template,
        require=config.require,
    )
