from dataclasses import replace

import numpy as np
import pytest

from atropos_agent.config import EnvConfig
from atropos_agent.errors import AmbiguousTrajectory, RecordError, RunDirectoryError, TooFewRows
from atropos_agent.export import Rules, is_mixed, rows_of, scored_group, scored_groups
from atropos_agent.record import RunDir
from atropos_agent.trajectory import Rollout, RolloutGroup, StopReason
from tests.rollouts import a_rollout, group_of


def with_helper(rollout: Rollout, score: float | None, *, trainable: bool = True) -> Rollout:
    helper = replace(rollout.trace, name="helper", score=score, trainable=trainable)
    return replace(rollout, traces=(rollout.trace, helper))


def test_advantages_are_over_the_traces_of_one_name():
    group = group_of(with_helper(a_rollout(0, 1.0), 5.0), with_helper(a_rollout(1, 0.0), 7.0))
    found = [(row.trace.name, row.advantage) for row in rows_of(group, Rules())]
    assert found == [("agent", 1.0), ("helper", -1.0), ("agent", -1.0), ("helper", 1.0)]


def test_a_group_with_several_trainable_traces_has_no_single_row_a_rollout():
    with pytest.raises(AmbiguousTrajectory, match="agent, helper"):
        scored_group(group_of(with_helper(a_rollout(0), 1.0)))


def test_a_trace_that_is_not_trained_is_no_row_and_in_no_baseline():
    group = group_of(with_helper(a_rollout(0, 1.0), 9.0, trainable=False), a_rollout(1, 0.0))
    assert [row.score for row in rows_of(group, Rules())] == [1.0, 0.0]
    assert scored_group(group)["scores"] == [1.0, 0.0]


def test_what_is_not_trained_takes_the_filler_of_its_exporter():
    (row,) = rows_of(group_of(a_rollout()), Rules())
    assert row.labels(-1).tolist() == [-1, -1, 1, 2]
    assert row.logprobs(0.0).tolist() == [0.0, 0.0, -0.5, -0.25]
    (cut,) = rows_of(group_of(a_rollout(stop=StopReason.TRUNCATED)), Rules())
    assert cut.labels(-1).tolist() == [-1] * 4
    assert (cut.labels(-1).dtype, cut.logprobs(0.0).dtype) == (np.int32, np.float32)


def test_the_rules_of_a_run_are_those_of_its_config():
    config = EnvConfig(on_branch="last", truncated="drop", allow_raw_logprobs=True, min_group_size=2)
    assert Rules.of(config) == Rules("last", "drop", True, 2)


def test_a_group_is_complete_with_enough_scored_rollouts():
    group = group_of(a_rollout(0), a_rollout(1), a_rollout(2, None))
    assert [Rules(min_group_size=size).is_complete(group) for size in (2, 3, None)] == [True, False, False]


def test_a_group_of_one_is_complete_under_any_minimum():
    assert Rules(min_group_size=2).is_complete(group_of(a_rollout(0)))
    assert len(rows_of(group_of(a_rollout(0)), Rules(min_group_size=2))) == 1


def test_the_minimum_counts_rollouts_that_give_a_row_and_the_error_says_why_others_do_not():
    cut = [a_rollout(index, stop=StopReason.TRUNCATED) for index in (1, 2)]
    group = group_of(a_rollout(0), *cut, a_rollout(3, sequences=2), a_rollout(4, None))
    with pytest.raises(TooFewRows) as error:
        rows_of(group, Rules("drop", "drop", min_group_size=2))
    assert str(error.value) == (
        "1 of the 5 rollouts of item 'item' give a row, 2 must: "
        "2 cut by a token limit (env.truncated: drop), "
        "1 with several sequences (env.on_branch: drop), 1 without a score"
    )
    assert len(rows_of(group, Rules("drop", "drop", min_group_size=1))) == 1


@pytest.mark.parametrize("score", [0.1, 123456.7, 1e30, -3e38])
def test_equal_scores_of_any_size_have_no_advantage_and_are_not_mixed(score):
    rows = rows_of(group_of(*[a_rollout(index, score) for index in range(7)]), Rules())
    assert [row.advantage for row in rows] == [0.0] * 7
    assert not is_mixed(rows)


def test_a_score_that_is_left_out_of_the_baseline_does_not_make_a_group_mixed():
    group = group_of(a_rollout(0, 1.0), a_rollout(1, 1.0), a_rollout(2, 0.0, stop=StopReason.MAX_TOKENS))
    assert not is_mixed(rows_of(group, Rules(truncated="drop")))
    assert is_mixed(rows_of(group, Rules(truncated="mask")))


def a_run(path, env: dict, *groups: RolloutGroup, dropped=None):
    with RunDir.create(path, {"config": {"env": env}}) as run:
        for group in groups:
            run.add_group(group, dropped)
    return path


def test_scored_groups_follow_the_run_they_are_derived_from(tmp_path):
    branched = group_of(a_rollout(0, 1.0, sequences=2), a_rollout(1, 0.0))
    assert list(scored_groups(a_run(tmp_path / "refuse", {}, branched))) == []
    (group,) = scored_groups(a_run(tmp_path / "last", {"on_branch": "last"}, branched))
    assert group == scored_group(branched, on_branch="last")


def test_a_group_that_a_trainer_shall_not_get_is_not_derived(tmp_path):
    equal = group_of(a_rollout(0, 1.0), a_rollout(1, 1.0))
    assert list(scored_groups(a_run(tmp_path / "equal", {}, equal, dropped="zero_variance"))) == []
    incomplete = group_of(a_rollout(0, 1.0), a_rollout(1, None))
    assert list(scored_groups(a_run(tmp_path / "few", {}, incomplete))) == []
    (group,) = scored_groups(a_run(tmp_path / "enough", {"min_group_size": 1}, incomplete))
    assert group["scores"] == [1.0]


def test_rules_that_no_run_can_have_are_named(tmp_path):
    path = a_run(tmp_path / "run", {"on_branch": "guess"})
    with pytest.raises(RunDirectoryError, match="on_branch"):
        list(scored_groups(path))


def test_a_group_without_a_tracked_rollout_has_no_rows():
    with pytest.raises(RecordError, match="item"):
        rows_of(group_of(a_rollout(0, None)), Rules())


def test_a_rollout_that_is_not_scored_gives_no_row_and_is_in_no_baseline():
    unscored = with_helper(a_rollout(2, None), 9.0)
    group = group_of(with_helper(a_rollout(0, 1.0), 1.0), with_helper(a_rollout(1, 0.0), 0.0), unscored)
    rows = rows_of(group, Rules(min_group_size=2))
    assert {row.rollout.index for row in rows} == {0, 1}
    assert [row.advantage for row in rows] == [1.0, 1.0, -1.0, -1.0]
