"""The numpy forward pass as a source of logprobs for the check."""

from __future__ import annotations

import numpy as np

from atropos_agent.policy.embedded import EMBEDDED_MODEL
from tests.numpy_oracle import NumpyOracle


class OracleTeacher:
    """The numpy forward pass of the shipped model."""

    name = "oracle"

    def __init__(self, *, any_temperature: bool = True) -> None:
        self.any_temperature = any_temperature
        self._oracle = NumpyOracle(EMBEDDED_MODEL)

    async def logprobs(self, sequences, temperature):
        return [self.of(ids, temperature) for ids in sequences]

    def of(self, ids, temperature=1.0):
        scaled = self._oracle.logprobs(ids)[:-1] / temperature
        normed = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
        after = normed[np.arange(len(ids) - 1), ids[1:]]
        return np.concatenate([[np.nan], after]).astype(np.float32)
