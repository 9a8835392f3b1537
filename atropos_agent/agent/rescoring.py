"""Rescoring: ask the same server for the logprobs of tokens that came without any."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from atropos_agent.errors import ProviderError
from atropos_agent.policy import Policy, Scorer
from atropos_agent.trajectory import (
    AgentStep,
    LogprobMode,
    LogprobProvenance,
    SequenceData,
    StepSpan,
)

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Rescored:
    """Sequences with the logprobs that were obtained; `notes` are words that the result counts:
    rescore_unavailable, rescore_failed."""

    sequences: tuple[SequenceData, ...]
    notes: tuple[str, ...] = ()


async def rescore(policy: Policy, sequences: Sequence[SequenceData], budget_s: float) -> Rescored:
    """Ask once for every sequence with spans that have no logprobs, in at most `budget_s` seconds.

    A span gets all its logprobs (provenance RESCORED, mode RAW: the model's own distribution) or stays as it
    is. Server errors and the time limit are logged, not raised: the tokens are usable without logprobs.
    """
    if not any(_lacking(sequence) for sequence in sequences):
        return Rescored(tuple(sequences))
    if not isinstance(policy, Scorer):
        return Rescored(tuple(sequences), ("rescore_unavailable",))
    done, notes = list(sequences), list[str]()
    try:
        async with asyncio.timeout(None if math.isinf(budget_s) else max(budget_s, 0.0)):
            for index, sequence in enumerate(sequences):
                if _lacking(sequence):
                    done[index] = await _scored(policy, sequence)
    except (ProviderError, TimeoutError) as error:
        logger.warning("not rescored: %s", str(error) or "the rollout's time for the server is used up")
        notes.append("rescore_failed")
    return Rescored(_rebased(sequences, done), tuple(notes))


def _rebased(before: Sequence[SequenceData], after: Sequence[SequenceData]) -> tuple[SequenceData, ...]:
    """`after` as branches of each other: rescoring replaced the parents that they were branches of."""
    rebased: dict[int, SequenceData] = {}
    for old, new in zip(before, after, strict=True):
        parent = None if old.parent is None else rebased.get(id(old.parent))
        rebased[id(old)] = new if parent is None else replace(new, parent=parent)
    return tuple(rebased.values())


def with_spans(steps: Sequence[AgentStep], sequences: Sequence[SequenceData]) -> tuple[AgentStep, ...]:
    """`steps` with the spans that `sequences` now hold."""
    spans = {(index, span.step_number): span for index, held in enumerate(sequences) for span in held.spans}
    return tuple([_with_span(step, spans) for step in steps])


def _with_span(step: AgentStep, spans: Mapping[tuple[int, int], StepSpan]) -> AgentStep:
    if step.span is None or step.sequence_index is None:
        return step
    span = spans[step.sequence_index, step.step_number]
    return step if span is step.span else replace(step, span=span)


async def _scored(scorer: Scorer, sequence: SequenceData) -> SequenceData:
    values = await scorer.score(sequence.token_ids)
    logprobs, spans = sequence.logprobs.copy(), list[StepSpan]()
    for span in sequence.spans:
        if _lacks(span):
            logprobs[span.start : span.end] = values[span.start : span.end]
            span = replace(span, logprob_provenance=LogprobProvenance.RESCORED, logprob_mode=LogprobMode.RAW)
        spans.append(span)
    return replace(sequence, own_logprobs=sequence.own_of(logprobs), spans=tuple(spans))


def _lacking(sequence: SequenceData) -> bool:
    return any(map(_lacks, sequence.spans))


def _lacks(span: StepSpan) -> bool:
    return span.logprob_provenance is LogprobProvenance.ABSENT and span.end > span.start
