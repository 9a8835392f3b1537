"""A branch holds its own tokens only, and is the same sequence as one that holds all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import RecordError
from atropos_agent.trajectory import (
    Copy,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    SequenceData,
    StepSpan,
    branch_of,
    shared_runs,
)

IDS = st.lists(st.integers(0, 3), max_size=80)


def ids_of(values) -> np.ndarray:
    return np.array(values, np.int32)


def sequence(ids) -> SequenceData:
    return SequenceData(ids, np.zeros(len(ids), np.bool_), np.full(len(ids), np.nan, np.float32))


@st.composite
def rewritten(draw) -> tuple[np.ndarray, np.ndarray]:
    """A text and another made of its pieces, in any order, with new tokens between them."""
    known = draw(IDS)
    pieces = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(known)))
        pieces += known[start : draw(st.integers(start, len(known)))] + draw(
            st.lists(st.integers(0, 3), max_size=5)
        )
    return ids_of(known), ids_of(pieces)


@given(rewritten())
def test_shared_runs_are_equal_ordered_and_do_not_overlap(pair):
    known, ids = pair
    end = 0
    for copy in shared_runs(known, ids):
        assert copy.at >= end
        assert copy.length > 0
        end = copy.at + copy.length
        assert np.array_equal(ids[copy.at : end], known[copy.start : copy.start + copy.length])


@given(rewritten(), st.data())
def test_a_branch_of_a_branch_is_the_sequence_it_was_made_of(pair, data):
    known, ids = pair
    parent = sequence(known)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(ids)))
        mask = np.arange(len(ids)) >= start
        logprobs = np.where(mask, np.float32(-0.5), np.float32(np.nan)).astype(np.float32)
        provenance = (Provenance.SAMPLED, LogprobProvenance.SAMPLED, LogprobMode.RAW)
        branch = branch_of(parent, ids, mask, logprobs, (StepSpan(1, start, len(ids), *provenance),))
        assert np.array_equal(branch.token_ids, ids)
        assert np.array_equal(branch.mask, mask)
        assert np.array_equal(branch.logprobs, logprobs, equal_nan=True)
        assert len(branch) == len(ids)
        assert np.array_equal(branch.own_of(branch.token_ids), branch.own_ids)
        parent, ids = branch, np.concatenate([ids[: len(ids) // 2], ids_of(data.draw(IDS))])


def test_what_stands_around_a_rewritten_piece_is_shared():
    known = np.arange(1000, dtype=np.int32)
    ids = np.concatenate([known[:100], ids_of([7, 7, 7]), known[150:], ids_of([1, 2])])
    assert shared_runs(known, ids) == (Copy(0, 0, 100), Copy(103, 150, 850))


def test_what_was_sampled_here_is_never_taken_from_the_parent():
    known = np.arange(100, dtype=np.int32)
    span = StepSpan(1, 20, 100, Provenance.SAMPLED, LogprobProvenance.ABSENT, LogprobMode.UNKNOWN)
    mask = np.arange(100) >= 20
    branch = branch_of(sequence(known), known, mask, np.full(100, np.nan, np.float32), (span,))
    assert branch.copies == (Copy(0, 0, 20),)
    assert branch.own_mask.all()


@pytest.mark.parametrize(
    "copies", [(Copy(0, 5, 6),), (Copy(0, 0, 5), Copy(4, 0, 2)), (Copy(9, 0, 5),), (Copy(0, 0, 0),)]
)
def test_copies_that_do_not_fit_are_refused(copies):
    own, parent = sequence(ids_of([1, 2])), sequence(np.arange(10, dtype=np.int32))
    with pytest.raises(RecordError, match="does not fit"):
        SequenceData(own.own_ids, own.own_mask, own.own_logprobs, (), parent, copies)


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(RecordError, match="one length"):
        SequenceData(ids_of([1]), np.zeros(2, np.bool_), np.zeros(1, np.float32))
    with pytest.raises(RecordError, match="entropy"):
        SequenceData(
            ids_of([1]), np.zeros(1, np.bool_), np.zeros(1, np.float32), side={"entropy": np.zeros(2)}
        )


@pytest.mark.slow
def test_a_line_of_a_thousand_branches_can_be_read():
    line = sequence(np.arange(50, dtype=np.int32))
    ids = line.own_ids
    for number in range(2000):
        ids = np.concatenate([ids[:40], ids_of([number])])
        line = branch_of(line, ids, np.zeros(41, np.bool_), np.full(41, np.nan, np.float32), ())
    assert np.array_equal(line.token_ids, ids)
