"""Teacher forcing through torch, against a forward pass in numpy: padded, in pieces, at any temperature."""

import asyncio

import numpy as np
import pytest

from atropos_agent.errors import ConfigError
from atropos_agent.logprob_check import Weights, weights
from atropos_agent.policy.embedded import EMBEDDED_MODEL
from tests.logprob_check.oracle import OracleTeacher

LENGTHS = (1, 2, 7, 40, 41, 150)
SEQUENCES = [np.random.default_rng(n).integers(0, 2000, n).astype(np.int32) for n in LENGTHS]


@pytest.fixture(scope="module")
def teacher() -> Weights:
    return Weights(str(EMBEDDED_MODEL))


def farthest(teacher: Weights, temperature: float) -> float:
    found = asyncio.run(teacher.logprobs(SEQUENCES, temperature))
    expected = asyncio.run(OracleTeacher().logprobs(SEQUENCES, temperature))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        assert np.isnan(ours[:1]).all()
        assert not np.isnan(ours[1:]).any()
    return max(np.abs(a[1:] - b[1:]).max() for a, b in zip(found, expected, strict=True) if len(a) > 1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("at_once", [weights.LOGITS_AT_ONCE, 2048 * 100, 2048 * 16, 1])
def test_every_token_has_the_logprob_of_the_weights(teacher, monkeypatch, at_once, temperature):
    monkeypatch.setattr(weights, "LOGITS_AT_ONCE", at_once)
    assert farthest(teacher, temperature) < 1e-4


def test_a_token_that_the_model_does_not_know_is_named(teacher):
    with pytest.raises(ConfigError, match="token id 99999"):
        asyncio.run(teacher.logprobs([np.array([1, 99_999], np.int32)], 1.0))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no weights can be loaded"):
        Weights(str(tmp_path))
