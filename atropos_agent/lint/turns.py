"""Checks of the joints between a trajectory's turns; all of them need the ids that end a turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from atropos_agent.lint.findings import Finding
from atropos_agent.lint.rows import Row
from atropos_agent.lint.tokens import first
from atropos_agent.lint.vocabulary import Vocabulary
from atropos_agent.trajectory import FinishReason, Mask

CLOSE_WITHIN = 6
"""A cut turn may be closed with a few more tokens (the end of its reasoning) before its end of turn."""
OPENING = 2
"""The number of ids before a trained run by which an assistant's turn is recognised."""


def check_turns(row: Row, known: Vocabulary) -> Iterator[Finding]:
    """Ends of turns: doubled, missing, not trained; trained runs that are not an assistant's turn."""
    if not known.stop_ids or not row.trained.any():
        return
    stops: Mask = np.isin(row.ids, list(known.stop_ids))
    runs = row.runs
    yield from _doubled(row, stops)
    inside = stops[:-1] & row.trained[:-1] & row.trained[1:] & (row.ids[:-1] != row.ids[1:])
    if (at := first(inside)) is not None:
        text = (
            "trained beyond the end of a turn: an observation or another's turn, which the policy never wrote"
        )
        yield Finding("observation-trained", text, row.index, at + 1)
        return
    if (at := _intruder(row, runs, stops)) is not None:
        text = "trained where no assistant's turn begins: an observation, which the policy never wrote"
        yield Finding("observation-trained", text, row.index, at)
        return
    yield from _untrained(row, runs, stops)
    yield from _missing(row, runs, stops)
    yield from _truncated(row, runs[-1], stops)


def _doubled(row: Row, stops: Mask) -> Iterator[Finding]:
    pairs = stops[:-1] & stops[1:] & (row.ids[:-1] == row.ids[1:])
    if (at := first(pairs)) is not None:
        text = f"end of turn {row.ids[at]} twice in a row: the policy is trained on a text it never sees"
        yield Finding("end-of-turn-doubled", text, row.index, at + 1)


def _intruder(row: Row, runs: list[tuple[int, int]], stops: Mask) -> int | None:
    """The start of the first run that follows an end of turn, but other ids than the row's first run."""
    start = runs[0][0]
    opening = row.ids[max(start - OPENING, 0) : start]
    for (_, end), (begin, _) in pairwise(runs):
        # A run that did not end its turn may continue after a gap inside the same turn.
        ended = stops[end - 1] or stops[end]
        if ended and not np.array_equal(row.ids[begin - len(opening) : begin], opening):
            return begin
    return None


def _untrained(row: Row, runs: list[tuple[int, int]], stops: Mask) -> Iterator[Finding]:
    told = row.finish_reasons if len(row.finish_reasons) == len(runs) else ("",) * len(runs)
    for (_, end), reason in zip(runs, told, strict=True):
        was_cut = reason not in ("", FinishReason.STOP) or (not reason and row.truncated)
        if not was_cut and end < len(stops) and stops[end] and not stops[end - 1]:
            text = f"end of turn {row.ids[end]} is not trained: the policy never learns to stop"
            yield Finding("end-of-turn-untrained", text, row.index, end)
            return


def _missing(row: Row, runs: list[tuple[int, int]], stops: Mask) -> Iterator[Finding]:
    for (_, end), (begin, _) in pairwise(runs):
        closed = stops[end - 1] or stops[end : min(end + CLOSE_WITHIN, begin)].any()
        if not closed and stops[end:begin].any():  # without any, the gap lies inside one turn
            text = "the turn has no end of turn before the next one begins: no server ever sees such a prompt"
            yield Finding("end-of-turn-missing", text, row.index, end)
            return


def _truncated(row: Row, last: tuple[int, int], stops: Mask) -> Iterator[Finding]:
    end = last[1]
    said = row.truncated or (bool(row.finish_reasons) and row.finish_reasons[-1] != FinishReason.STOP)
    if not said and not stops[end - 1] and not stops[end : end + 1].any():
        text = (
            "ends in the middle of a turn and nothing says that it was cut: a half answer gets a full score"
        )
        yield Finding("truncated-unflagged", text, row.index, end - 1)
