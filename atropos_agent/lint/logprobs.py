"""Checks of one trajectory's logprobs: finds numbers that cannot come from a policy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from atropos_agent.lint.findings import Finding
from atropos_agent.lint.rows import Floats, Row
from atropos_agent.lint.tokens import first
from atropos_agent.policy.wires.common import LOWEST_LOGPROB, ROUNDING
from atropos_agent.trajectory import IGNORED_LOGPROB, Mask

LONG_RUN = 32
"""A confident policy gives some zeros in a row; a run of this length, or nothing but zeros, is made up."""


def check_logprobs(row: Row) -> Iterator[Finding]:
    """At most one finding of a kind, at its first position."""
    values, trained = row.logprobs, row.trained
    if values is None:
        return
    if row.nulls:
        text = f"null in the logprobs ({len(row.nulls)} times): the Atropos API refuses the whole group"
        yield Finding("logprob-null", text, row.index, row.nulls[0])
    infinite = ~np.isfinite(values)
    infinite[list(row.nulls)] = False
    if (at := first(infinite)) is not None:
        yield Finding("logprob-not-finite", f"logprob {values[at]}: the loss is not finite", row.index, at)
    yield from _made_up(row.index, values, trained)


def _made_up(index: int, values: Floats, trained: Mask) -> Iterator[Finding]:
    ones = trained & (values == IGNORED_LOGPROB)
    if (at := first(ones)) is not None:
        text = (
            f"1.0 on {int(ones.sum())} trained tokens: it marks untrained ones, or pads a list that was short"
        )
        yield Finding("logprob-ones", text, index, at)
    # Values up to ROUNDING are rounding errors of a probability of 1.
    positive = trained & (values > ROUNDING) & ~ones & np.isfinite(values)
    if (at := first(positive)) is not None:
        yield Finding("logprob-positive", f"logprob {values[at]:g}: a probability above 1", index, at)
    sentinel = trained & (values <= LOWEST_LOGPROB) & np.isfinite(values)
    if (at := first(sentinel)) is not None:
        text = f"logprob {values[at]:g}: a server's word for a logprob it does not have"
        yield Finding("logprob-sentinel", text, index, at)
    zeros = trained & (values == 0.0)
    start, length = _longest_run(zeros)
    total = int(trained.sum())
    if length >= LONG_RUN or 1 < total == int(zeros.sum()):
        text = f"0.0 on {int(zeros.sum())} of {total} trained tokens: what a fallback without logprobs writes"
        yield Finding("logprob-zeros", text, index, start)


def _longest_run(flags: Mask) -> tuple[int, int]:
    """Start and length of the longest run of True; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    if not len(edges):
        return 0, 0
    lengths = edges[:, 1] - edges[:, 0]
    longest = int(lengths.argmax())
    return int(edges[longest, 0]), int(lengths[longest])
