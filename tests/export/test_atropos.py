from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from atropos_agent.errors import AmbiguousTrajectory, RecordError
from atropos_agent.export import Rules, rows_of, sequences_left_out
from atropos_agent.export.atropos import check_group, scored_group
from atropos_agent.trajectory import (
    LogprobMode,
    SamplingParams,
    ScoredDataGroup,
    StopReason,
)
from tests.rollouts import ANY_SPEED, a_rollout, group_of, rollouts

NAN = float("nan")


class AtroposBody(BaseModel):
    """What Atropos' own server asks of a scored group; a misspelt key would be lost there in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    tokens: list[list[int]]
    masks: list[list[int]]
    scores: list[float]
    advantages: list[list[float]] | None
    ref_logprobs: list[list[float]] | None
    messages: list[list[dict]] | None
    generation_params: dict | None
    inference_logprobs: list[list[float]] | None = None
    group_overrides: dict | None
    overrides: list[dict] | None
    images: list | None


def row(group: ScoredDataGroup, key: str, index: int) -> Any:
    return cast("Any", group)[key][index]


def test_a_group_has_exactly_the_keys_and_types_of_atropos():
    group = scored_group(group_of(a_rollout(0, 1.0), a_rollout(1, 0.0)))
    AtroposBody.model_validate(group)
    assert set(AtroposBody.model_fields) == set(ScoredDataGroup.__annotations__)


def test_masks_are_minus_100_or_the_id_and_logprobs_1_off_the_mask():
    group = scored_group(group_of(a_rollout()))
    assert group["tokens"] == [[7, 8, 1, 2]]
    assert group["masks"] == [[-100, -100, 1, 2]]
    assert row(group, "inference_logprobs", 0) == [1.0, 1.0, -0.5, -0.25]
    assert group["messages"] == [
        [{"role": "user", "content": "do"}, {"role": "assistant", "content": "said"}]
    ]


def test_one_missing_logprob_takes_the_key_from_the_whole_group():
    group = scored_group(group_of(a_rollout(0), a_rollout(1, logprobs=(-0.5, NAN))))
    assert "inference_logprobs" not in group


def test_raw_logprobs_of_another_distribution_are_left_out_unless_asked_for():
    hot = a_rollout(mode=LogprobMode.RAW, sampling=SamplingParams(temperature=0.7))
    assert "inference_logprobs" not in scored_group(group_of(hot))
    assert "inference_logprobs" in scored_group(group_of(hot), allow_raw=True)


@pytest.mark.parametrize("mode", [LogprobMode.RAW, LogprobMode.UNKNOWN])
def test_raw_logprobs_at_neutral_sampling_are_those_of_the_policy(mode):
    assert "inference_logprobs" in scored_group(group_of(a_rollout(mode=mode)))


def test_an_unscored_rollout_is_never_a_row_and_never_in_the_baseline():
    group = scored_group(group_of(a_rollout(0, 1.0), a_rollout(1, None), a_rollout(2, 0.0)))
    assert group["scores"] == [1.0, 0.0]
    assert group["advantages"] == [[1.0] * 4, [-1.0] * 4]


def test_a_complete_group_leaves_the_baseline_to_the_trainer():
    assert scored_group(group_of(a_rollout(0, 1.0), a_rollout(1, 0.0)))["advantages"] is None


def test_equal_scores_give_no_advantage():
    group = scored_group(group_of(a_rollout(0, 1.0), a_rollout(1, 1.0), a_rollout(2, None)))
    assert group["advantages"] == [[0.0] * 4] * 2


def test_several_sequences_are_refused_by_default():
    with pytest.raises(AmbiguousTrajectory, match="on_branch"):
        scored_group(group_of(a_rollout(sequences=2)))


def test_the_last_sequence_carries_the_advantage_of_its_rollout():
    group = scored_group(group_of(a_rollout(0, 1.0, sequences=2), a_rollout(1, 0.0)), on_branch="last")
    assert group["tokens"] == [[7, 8, 1, 3], [7, 8, 1, 2]]
    assert group["advantages"] == [[1.0] * 4, [-1.0] * 4]


def test_a_dropped_branch_still_counts_in_the_baseline():
    group = scored_group(group_of(a_rollout(0, 1.0, sequences=2), a_rollout(1, 0.0)), on_branch="drop")
    assert group["scores"] == [0.0]
    assert group["advantages"] == [[-1.0] * 4]


@pytest.mark.parametrize(("on_branch", "left_out"), [("last", 2), ("drop", 3)])
def test_the_sequences_that_no_row_holds_are_counted(on_branch, left_out):
    branched = group_of(a_rollout(0, 1.0, sequences=3), a_rollout(1, 0.0), a_rollout(2, None, sequences=2))
    rows = rows_of(branched, Rules(on_branch))
    assert sequences_left_out(branched, rows) == left_out


def test_a_truncated_rollout_keeps_its_score_and_loses_its_loss():
    cut = a_rollout(1, 0.0, stop=StopReason.TRUNCATED, logprobs=(NAN, NAN))
    group = scored_group(group_of(a_rollout(0, 1.0), cut))
    assert group["masks"][1] == [-100] * 4
    assert group["scores"] == [1.0, 0.0]
    assert row(group, "inference_logprobs", 1) == [1.0] * 4
    assert row(group, "overrides", 1)["managed_metadata"]["truncated"] is True


def test_a_truncated_rollout_can_be_trained_or_left_out():
    pair = group_of(a_rollout(0, 1.0), a_rollout(1, 0.0, stop=StopReason.MAX_TOKENS))
    assert scored_group(pair, truncated="score")["masks"][1] == [-100, -100, 1, 2]
    left = scored_group(pair, truncated="drop")
    assert left["scores"] == [1.0]
    assert left["advantages"] == [[0.0] * 4]


def test_sampling_is_told_once_and_per_row_where_it_differs():
    same = scored_group(group_of(a_rollout(0), a_rollout(1)))
    assert same["generation_params"] == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "max_tokens": None,
    }
    assert "temperature" not in row(same, "overrides", 0)
    other = a_rollout(1, sampling=SamplingParams(temperature=0.5))
    mixed = scored_group(group_of(a_rollout(0), other))
    assert mixed["generation_params"] is None
    assert [row(mixed, "overrides", index)["temperature"] for index in (0, 1)] == [1.0, 0.5]


def test_a_group_without_a_row_is_refused():
    with pytest.raises(RecordError, match="item"):
        scored_group(group_of(a_rollout(0, None)))


@pytest.mark.parametrize("score", [NAN, float("inf")])
def test_a_score_that_is_not_finite_is_refused(score):
    with pytest.raises(RecordError, match="finite"):
        scored_group(group_of(a_rollout(0, score)))


@pytest.mark.parametrize(
    "change",
    [
        {"masks": [[-100, -100, 1]]},
        {"masks": [[-100, -100, 1, 9]]},
        {"scores": [1.0, 2.0]},
        {"scores": [NAN]},
        {"inference_logprobs": [[1.0, 1.0, NAN, -1.0]]},
        {"inference_logprobs": []},
        {"advantages": [[1.0]]},
        {"overrides": []},
    ],
)
def test_what_would_break_a_trainer_is_refused(change):
    with pytest.raises(RecordError):
        check_group(cast("ScoredDataGroup", scored_group(group_of(a_rollout())) | change))


@ANY_SPEED
@given(st.lists(rollouts(), min_size=1, max_size=3), st.sampled_from(["last", "drop"]))
def test_any_group_is_conformant_or_refused(held, on_branch):
    try:
        group = scored_group(group_of(*held), on_branch=on_branch)
    except RecordError:
        return
    AtroposBody.model_validate(group)
    check_group(group)
