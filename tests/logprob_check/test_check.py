"""Planted wrong logprobs are found and located; nothing else is held against a record."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from atropos_agent.logprob_check import LogprobCheck, check_run
from atropos_agent.logprob_check.distribution import histogram
from atropos_agent.logprob_check.recorded import Skipped
from atropos_agent.record import RunDir
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Completion,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    Rollout,
    RolloutGroup,
    SamplingParams,
    SequenceData,
    StepSpan,
    StopReason,
    Trace,
)
from tests.logprob_check.oracle import OracleTeacher
from tests.rollouts import with_result

TURNS, SAMPLED, OBSERVED = 3, 6, 5
NEUTRAL = SamplingParams()


@pytest.fixture(scope="module")
def teacher() -> OracleTeacher:
    return OracleTeacher()


def a_true_rollout(
    teacher, index: int, *, sampling=NEUTRAL, recorded_at=1.0, mode=LogprobMode.RAW
) -> Rollout:
    """Turns of random ids whose logprobs are the model's own at temperature `recorded_at`."""
    ids = np.random.default_rng(index).integers(0, 500, TURNS * (OBSERVED + SAMPLED)).astype(np.int32)
    logprobs, mask, spans = np.full(len(ids), np.nan, np.float32), np.zeros(len(ids), np.bool_), []
    truth = teacher.of(ids, recorded_at)
    for turn in range(TURNS):
        end = (turn + 1) * (OBSERVED + SAMPLED)
        mask[end - SAMPLED : end] = True
        logprobs[end - SAMPLED : end] = truth[end - SAMPLED : end]
        spans.append(
            StepSpan(turn + 1, end - SAMPLED, end, Provenance.SAMPLED, LogprobProvenance.SAMPLED, mode)
        )
    steps = tuple(
        AgentStep(span.step_number, "", Completion("", sampling=sampling), sequence_index=0, span=span)
        for span in spans
    )
    sequence = SequenceData(ids, mask, logprobs, tuple(spans))
    result = AgentResult(True, "", StopReason.FINAL_ANSWER, steps, (sequence,))
    return Rollout(f"r{index}", "item", index, (Trace(result, score=1.0),))


def changed(rollout: Rollout, **places: float) -> Rollout:
    """`rollout` with the logprobs at `t<index>` moved."""
    (sequence,) = rollout.result.sequences
    logprobs = sequence.logprobs.copy()
    for name, by in places.items():
        logprobs[int(name[1:])] += by
    moved = replace(sequence, own_logprobs=logprobs)
    return with_result(rollout, sequences=(moved,))


def checked(path, teacher, *rollouts: Rollout) -> LogprobCheck:
    with RunDir.create(path / "run", {}) as run:
        run.add_group(RolloutGroup("item", 0, rollouts))
    return asyncio.run(check_run(path / "run", teacher))


def test_true_logprobs_agree_in_every_turn(tmp_path, teacher):
    found = checked(tmp_path, teacher, *(a_true_rollout(teacher, index) for index in range(8)))
    (origin,) = found.origins
    assert [held.count for held in origin.turns.values()] == [8 * SAMPLED] * TURNS
    assert origin.overall.max == 0.0
    assert found.skipped == {}


def test_one_planted_logprob_is_found_where_it_is(tmp_path, teacher):
    rollouts = [a_true_rollout(teacher, index) for index in range(8)]
    rollouts[5] = changed(rollouts[5], t20=-0.75)
    (origin,) = checked(tmp_path, teacher, *rollouts).origins
    worst = origin.overall.worst
    assert (worst.item_id, worst.repetition, worst.rollout_id) == ("item", 0, "r5")
    assert (worst.step_number, worst.token_index) == (2, 20)
    assert worst.token_id == rollouts[5].result.sequences[0].token_ids[20]
    assert worst.recorded - worst.recomputed == pytest.approx(-0.75, abs=1e-5)
    assert [held.max > 0.7 for held in origin.turns.values()] == [False, True, False]
    assert origin.overall.median == 0.0


def test_logprobs_shifted_by_one_place_show_in_the_median(tmp_path, teacher):
    rollout = a_true_rollout(teacher, 1)
    (sequence,) = rollout.result.sequences
    shifted = replace(sequence, own_logprobs=np.where(sequence.mask, np.roll(sequence.logprobs, 1), np.nan))
    wrong = with_result(rollout, sequences=(shifted,))
    found = checked(tmp_path, teacher, wrong)
    assert found.origins[0].overall.median > 0.1
    assert found.skipped == {Skipped.ABSENT: TURNS}


def test_processed_logprobs_are_recomputed_at_their_temperature(tmp_path, teacher):
    hot = SamplingParams(temperature=1.5)
    rollout = a_true_rollout(teacher, 1, sampling=hot, recorded_at=1.5, mode=LogprobMode.PROCESSED)
    assert checked(tmp_path, teacher, rollout).origins[0].overall.max <= 1e-5


def test_raw_logprobs_are_the_models_own_whatever_was_sampled_with(tmp_path, teacher):
    rollout = a_true_rollout(teacher, 1, sampling=SamplingParams(temperature=0.5, top_k=3))
    assert checked(tmp_path, teacher, rollout).origins[0].overall.max == 0.0


@pytest.mark.parametrize(
    ("sampling", "mode", "reason"),
    [
        (SamplingParams(top_p=0.9), LogprobMode.PROCESSED, Skipped.TRUNCATED),
        (SamplingParams(top_k=5), LogprobMode.PROCESSED, Skipped.TRUNCATED),
        (SamplingParams(min_p=0.1), LogprobMode.PROCESSED, Skipped.TRUNCATED),
        (SamplingParams(temperature=0.0), LogprobMode.PROCESSED, Skipped.GREEDY),
        (SamplingParams(temperature=0.7), LogprobMode.UNKNOWN, Skipped.UNKNOWN_MODE),
    ],
)
def test_what_cannot_be_compared_is_counted_by_its_reason(tmp_path, teacher, sampling, mode, reason):
    wrong = changed(a_true_rollout(teacher, 1, sampling=sampling, mode=mode), t8=-3.0)
    found = checked(tmp_path, teacher, wrong)
    assert found.origins == ()
    assert found.skipped == {reason: TURNS * SAMPLED}


def test_a_server_recomputes_only_the_models_own_distribution(tmp_path):
    server = OracleTeacher(any_temperature=False)
    hot = SamplingParams(temperature=1.5)
    rollout = a_true_rollout(server, 1, sampling=hot, recorded_at=1.5, mode=LogprobMode.PROCESSED)
    assert checked(tmp_path, server, rollout).skipped == {Skipped.ONLY_NEUTRAL: TURNS * SAMPLED}


def test_origins_are_never_mixed(tmp_path, teacher):
    raw, processed = (
        a_true_rollout(teacher, 1, mode=mode) for mode in (LogprobMode.RAW, LogprobMode.PROCESSED)
    )
    found = checked(tmp_path, teacher, changed(raw, t6=-1.0), replace(processed, id="r2"))
    worst = {check.origin.logprob_mode: check.overall.max for check in found.origins}
    assert worst[LogprobMode.RAW] == pytest.approx(1.0, abs=1e-5)
    assert worst[LogprobMode.PROCESSED] == 0.0


def test_the_written_check_holds_the_same_figures(tmp_path, teacher):
    found = checked(tmp_path, teacher, changed(a_true_rollout(teacher, 1), t6=-1.0))
    written = json.loads(found.write(tmp_path / "run").read_text())
    (origin,) = written["origins"]
    assert origin["overall"]["max"] == found.origins[0].overall.max
    assert origin["overall"]["worst"]["token_index"] == 6
    assert [turn["turn"] for turn in origin["turns"]] == [1, 2, 3]
    assert sum(count for _, count in origin["histogram"]) == written["compared"] == TURNS * SAMPLED


def test_the_histogram_keeps_what_lies_beyond_its_ends():
    found = histogram(np.array([0.0, 3e-5, 1e9], np.float32))
    assert sum(count for _, count in found) == 3
    assert found[0] == (pytest.approx(1e-8), 1)
    assert found[-1] == (pytest.approx(100.0), 1)
    assert {round(np.log10(edge), 1): count for edge, count in found}[-5.0] == 1
