"""Decides which recorded logprobs can be recomputed, at which temperature, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from atropos_agent.trajectory import (
    LogprobMode,
    LogprobProvenance,
    Provenance,
    Rollout,
    SamplingParams,
    SequenceData,
    StepSpan,
    Trace,
)


class Skipped(StrEnum):
    """Why a trained token is not compared."""

    ABSENT = "no logprob recorded"
    TRUNCATED = "processed logprobs of a truncated distribution (top_p, top_k, min_p)"
    GREEDY = "processed logprobs at temperature 0"
    UNKNOWN_MODE = "raw or processed is not known, and the sampling was not neutral"
    ONLY_NEUTRAL = "processed logprobs at another temperature than 1, which a server cannot recompute"
    NOT_RECOMPUTED = "the server gave no logprob for it"


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where ids and logprobs of a step come from; distributions of different origins are never mixed."""

    provenance: Provenance
    logprob_provenance: LogprobProvenance
    logprob_mode: LogprobMode

    @classmethod
    def of(cls, span: StepSpan) -> Origin:
        """That of one step."""
        return cls(span.provenance, span.logprob_provenance, span.logprob_mode)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The sampled tokens of one step where they lie in their sequence, and how they were sampled."""

    rollout: Rollout
    trace: Trace
    sequence_index: int
    span: StepSpan
    sampling: SamplingParams

    @property
    def sequence(self) -> SequenceData:
        """The sequence that holds the step."""
        return self.trace.result.sequences[self.sequence_index]

    def temperature(self, *, any_temperature: bool) -> float | Skipped:
        """The temperature at which the recorded logprobs can be recomputed, or why they cannot.

        Raw ones are the model's own, independent of the sampling. `any_temperature` is False if only the
        model's own distribution can be requested.
        """
        sampling, mode = self.sampling, self.span.logprob_mode
        if mode is LogprobMode.RAW or sampling.is_neutral:
            return 1.0
        if mode is LogprobMode.UNKNOWN:
            return Skipped.UNKNOWN_MODE
        if sampling.temperature <= 0:
            return Skipped.GREEDY
        if sampling.top_p < 1.0 or sampling.top_k > 0 or sampling.min_p > 0.0:
            return Skipped.TRUNCATED
        return sampling.temperature if any_temperature else Skipped.ONLY_NEUTRAL


def steps(rollout: Rollout) -> Iterator[Step]:
    """The recorded steps of all sequences of all trainable traces of `rollout`."""
    for trace in (trace for trace in rollout.traces if trace.trainable):
        sampling = {step.step_number: step.completion.sampling for step in trace.result.steps}
        for index, sequence in enumerate(trace.result.sequences):
            for span in sequence.spans:
                yield Step(rollout, trace, index, span, sampling[span.step_number])
