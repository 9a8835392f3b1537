"""The nouns of an environment, and which failures are whose: data and pure functions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from atropos_agent.config import SandboxConfig
from atropos_agent.errors import (
    AtroposAgentError,
    TaskError,
)
from atropos_agent.sandbox import Isolation, SandboxSpec
from atropos_agent.trajectory import AgentResult, Failure, Json, Score, StopReason, ToolCall


class Item(Protocol):
    """What an environment walks over. `id` is stable: it names the same item in every run."""

    @property
    def id(self) -> str:
        """The stable name."""
        ...


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


def failed(error: AtroposAgentError) -> AgentResult:
    """The record of a rollout that did not get as far as the agent."""
    return AgentResult(False, "", StopReason.ERROR, failure=Failure.of(error))


@contextmanager
def task_errors(what: str) -> Iterator[None]:
    """The one boundary to an environment's own code: its failure costs this rollout, and is named."""
    try:
        yield
    except AtroposAgentError:
        raise
    except Exception as error:
        raise TaskError(f"{what} failed: {type(error).__name__}: {error}") from error


def unusable(score: Score) -> str | None:
    """What makes `score` unfit for the record; None where it is fit."""
    if not isinstance(score, Score):
        return f"{score!r}, which is no Score"
    for name, value in {"value": score.value, **score.parts}.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"{name} {value!r}, which is no finite number"
    try:
        json.dumps(dict(score.metadata))
    except (TypeError, ValueError) as error:
        return f"metadata that is no JSON: {error}"
    return None


def rollout_seed(run_seed: int, rollout_id: str, attempt: int) -> int:
    """The sampling seed of one attempt, in [0, 2**64)."""
    digest = hashlib.blake2b(f"{run_seed}/{rollout_id}/{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def isolation_as_data(isolation: Isolation) -> dict[str, Json]:
    """What a record says of it."""
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
