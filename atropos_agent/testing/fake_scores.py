"""Prompt logprobs in the formats of real servers; each value is a function of the id alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from atropos_agent.testing.fake_answers import Fault, Object, spoilt
from atropos_agent.testing.fake_policy import fake_logprobs
from atropos_agent.trajectory import TokenIds


class Scoring(StrEnum):
    """The format in which a server returns prompt logprobs."""

    PROMPT_LOGPROBS = "prompt_logprobs"
    GENERATE = "generate"
    ECHO = "echo"


def scored(
    asked: Mapping[str, object], scoring: Scoring | None, model: str, fault: Fault | None
) -> Object | None:
    """The body that answers `asked`; None if the request is not for prompt logprobs in this format."""
    ids = asked.get("input_ids" if scoring is Scoring.GENERATE else "prompt")
    word = "logprob_start_len" if scoring is Scoring.GENERATE else scoring
    if scoring is None or word not in asked or not isinstance(ids, list):
        return None
    shown = np.array(ids, np.int32) + (fault is Fault.MISSING_IDS)
    values = [None, *spoilt([float(value) for value in fake_logprobs(np.array(ids, np.int32))], fault)[1:]]
    if scoring is Scoring.GENERATE:
        triples = [[value, token, None] for value, token in zip(values, shown.tolist(), strict=False)]
        return {"text": "", "meta_info": {"input_token_logprobs": triples}}
    usage = {"prompt_tokens": len(ids) + (fault is Fault.WRONG_PROMPT_USAGE)}
    choice = _prompt_logprobs(values, shown) if scoring is Scoring.PROMPT_LOGPROBS else _echo(values, shown)
    choices = [] if fault is Fault.EMPTY_CHOICES else [choice]
    return {"object": "text_completion", "model": model, "choices": choices, "usage": usage}


def _prompt_logprobs(values: list[float | None], shown: TokenIds) -> Object:
    entries: list[object] = [
        {str(token): {"logprob": value, "rank": 2}, "0": {"logprob": -0.1, "rank": 1}}
        for value, token in zip(values, shown.tolist(), strict=False)
    ]
    return {"text": "x", "prompt_logprobs": [None, *entries[1:]]}


def _echo(values: list[float | None], shown: TokenIds) -> Object:
    return {
        "text": "x",
        "prompt_token_ids": shown.tolist(),
        "logprobs": {"token_logprobs": values, "tokens": []},
    }
