"""What a sequence shares with an earlier one: runs of equal tokens, found in time linear in both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atropos_agent.trajectory.sequences import Copy, SequenceData, StepSpan
from atropos_agent.trajectory.values import Logprobs, Mask, TokenIds

BLOCK = 16
"""The shortest run, in tokens, that is searched for after the common head. A copy costs as much memory as
about ten tokens."""
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that multiplication modulo 2**64 loses nothing


def branch_of(
    parent: SequenceData, ids: TokenIds, mask: Mask, logprobs: Logprobs, spans: tuple[StepSpan, ...]
) -> SequenceData:
    """The sequence of `ids` int32[T], `mask` bool[T] and `logprobs` float32[T], held as a branch of `parent`.

    Only tokens before the first span are shared: sampled tokens are always the sequence's own.
    """
    copies = shared_runs(parent.token_ids, ids[: spans[0].start if spans else len(ids)])
    if not copies:
        return SequenceData(ids, mask, logprobs, spans)
    own = np.ones(len(ids), np.bool_)
    for copy in copies:
        own[copy.at : copy.at + copy.length] = False
    return SequenceData(ids[own], mask[own], logprobs[own], spans, parent, copies)


def shared_runs(known: TokenIds, ids: TokenIds) -> tuple[Copy, ...]:
    """Runs of `known` that `ids` holds, in the order of `ids` and without overlap.

    The common head counts from one token on, later runs from BLOCK tokens on. Equal blocks are found by
    their hashes and then compared, so a collision costs time and changes nothing.
    """
    head = _equal(known, ids)
    copies = [Copy(0, 0, head)] if head else []
    if len(ids) - head < BLOCK or len(known) < BLOCK:
        return tuple(copies)
    table, hashes = _hashes(known), _hashes(ids)
    order = np.argsort(table, kind="stable")
    table = table[order]
    low, high = np.searchsorted(table, hashes, "left"), np.searchsorted(table, hashes, "right")
    candidates = np.flatnonzero(low < high)
    at, expected = head, head
    while (found := int(np.searchsorted(candidates, at))) < len(candidates):
        here = int(candidates[found])
        places = order[low[here] : high[here]]
        # Of equal blocks, the first after the last copy: rewritten history mostly keeps its order.
        there = int(places[min(int(np.searchsorted(places, expected)), len(places) - 1)])
        length = _equal(known[there:], ids[here:])
        if length < BLOCK:
            at = here + 1
            continue
        copies.append(Copy(here, there, length))
        at, expected = here + length, there + length
    return tuple(copies)


def _equal(first: TokenIds, second: TokenIds) -> int:
    """How many tokens both begin with."""
    size = min(len(first), len(second))
    differing = first[:size] != second[:size]
    at = int(differing.argmax()) if size else 0  # 0 as well where nothing differs
    return at if size and differing[at] else size


def _hashes(ids: TokenIds) -> NDArray[np.uint64]:
    """A hash of each BLOCK tokens in a row, uint64[len(ids) - BLOCK + 1]."""
    values, size = ids.astype(np.uint64), len(ids) - BLOCK + 1
    hashes = np.zeros(size, np.uint64)
    for offset in range(BLOCK):
        hashes = hashes * np.uint64(_FACTOR) + values[offset : offset + size] + np.uint64(1)
    return hashes
