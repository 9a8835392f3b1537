"""|recorded - recomputed| as a distribution. No mean: it would hide a single large difference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Differences = NDArray[np.float32]

LOWEST_EDGE, HIGHEST_EDGE, BINS_PER_DECADE = -8, 2, 2


@dataclass(frozen=True, slots=True)
class Worst:
    """The token with the largest difference: its index from 0 in its sequence, and both logprobs."""

    item_id: str
    repetition: int
    rollout_id: str
    sequence_index: int
    step_number: int
    token_index: int
    token_id: int
    recorded: float
    recomputed: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of |difference| in nats, over `count` tokens."""

    count: int
    median: float
    p90: float
    p99: float
    max: float
    worst: Worst


@dataclass(slots=True, eq=False)
class Gathered:
    """The differences so far, and the worst of them."""

    parts: list[Differences] = field(default_factory=list[Differences])
    largest: float = -1.0
    worst: Worst | None = None

    def add(self, differences: Differences, worst: Worst) -> None:
        """Take the differences of one step, float32[n] with n > 0; `worst` is the largest of them."""
        self.parts.append(differences)
        if (largest := float(differences.max())) > self.largest:
            self.largest, self.worst = largest, worst

    @property
    def values(self) -> Differences:
        """All of them, float32[n]."""
        return np.concatenate(self.parts)

    def distribution(self) -> Distribution:
        """Their quantiles."""
        assert self.worst is not None
        values = self.values
        # "higher" gives a difference that occurred, not one interpolated between two.
        median, p90, p99 = np.quantile(values, [0.5, 0.9, 0.99], method="higher").tolist()
        return Distribution(len(values), median, p90, p99, self.largest, self.worst)


def histogram(values: Differences) -> list[tuple[float, int]]:
    """(lower edge, count) per half decade, from the first to the last that holds any.

    The first bin takes everything below 1e-8, the last one everything above 100 nats.
    """
    decades = np.log10(np.maximum(values, np.float32(10.0**LOWEST_EDGE)))
    edges = np.linspace(LOWEST_EDGE, HIGHEST_EDGE, (HIGHEST_EDGE - LOWEST_EDGE) * BINS_PER_DECADE + 1)
    at = np.clip(np.searchsorted(edges, decades, side="right") - 1, 0, len(edges) - 1)
    counts = np.bincount(at, minlength=len(edges))
    held = np.flatnonzero(counts)
    return [(float(10.0 ** edges[i]), int(counts[i])) for i in range(held[0], held[-1] + 1)]
