"""Teacher forcing through the policy's own server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from atropos_agent.policy.protocol import Scorer
from atropos_agent.trajectory import Logprobs, TokenIds


class Server:
    """A server that gives the logprobs of a prompt, of the model's own distribution only."""

    any_temperature = False

    def __init__(self, scorer: Scorer, name: str) -> None:
        self._scorer = scorer
        self.name: str = name

    async def logprobs(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """Each token's logprob after those before it, float32[n] a sequence, NaN where there is none.

        Raises ProviderError.
        """
        assert temperature == 1.0
        return list(await asyncio.gather(*(self._scorer.score(ids) for ids in sequences)))
