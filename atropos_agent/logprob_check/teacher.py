"""The source of recomputed logprobs: weights in this process, or a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from atropos_agent.trajectory import Logprobs, TokenIds


class Teacher(Protocol):
    """A source of logprobs of given tokens. `name` says which one, for the record."""

    @property
    def name(self) -> str:
        """A folder, hub name or URL."""
        ...

    @property
    def any_temperature(self) -> bool:
        """False where only the model's own distribution (temperature 1) can be requested."""
        ...

    async def logprobs(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """Each token's logprob after those before it, float32[n] a sequence, NaN where there is none."""
        ...
