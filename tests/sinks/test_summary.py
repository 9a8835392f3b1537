from dataclasses import replace

from atropos_agent.errors import ServerUnreachable
from atropos_agent.export import Rules
from atropos_agent.record import GroupRecord, RunDir
from atropos_agent.sinks import summary
from atropos_agent.sinks.summary import summarise
from atropos_agent.trajectory import Failure, RolloutGroup, StopReason
from tests.rollouts import NAN, a_rollout, with_result


def a_record(*rollouts, dropped=None) -> GroupRecord:
    return GroupRecord("item", 0, rollouts, dropped)


def summary_of(records, rules=Rules()):  # noqa: B008  frozen
    return summary.summary_of(records, rules)


def test_scores_groups_and_reasons_are_counted():
    found = summary_of(
        [
            a_record(a_rollout(0, 1.0), a_rollout(1, 0.0), a_rollout(2, None, stop=StopReason.ERROR)),
            a_record(a_rollout(3, 1.0), a_rollout(4, 1.0), dropped="zero_variance"),
        ]
    )
    assert (found.groups, found.mixed_groups, found.rollouts) == (2, 1, 5)
    assert found.mean_score == 0.75
    assert found.stop_reasons == {"final_answer": 4, "error": 1}
    assert found.dropped == {"zero_variance": 1}


def test_trained_tokens_without_a_logprob_are_told_apart():
    found = summary_of([a_record(a_rollout(0), a_rollout(1, logprobs=(-0.5, NAN)))])
    assert (found.tracked_tokens, found.logprobs) == (4, 3)
    assert found.steps_by_provenance == {"sampled": 2}


def test_errors_and_isolation_are_counted():
    rollout = a_rollout(0, None, stop=StopReason.ERROR)
    failed = with_result(rollout, failure=Failure.of(ServerUnreachable("gone")))
    found = summary_of([a_record(replace(failed, isolation={"backend": "local", "unsafe": True}))])
    assert found.errors == {"ServerUnreachable": 1}
    assert found.backends == {"local": 1}
    assert found.unsafe == 1


def test_breaks_and_the_sequences_they_cost_are_counted():
    branched, plain = a_rollout(0, 1.0, sequences=3), a_rollout(1, 0.0)
    found = summary_of([a_record(branched, plain)], Rules("last"))
    assert (found.breaks, found.sequences_left_out) == ({"template": 2}, 2)


def test_time_runs_from_the_first_start_to_the_last_end():
    early = replace(a_rollout(0), started_at=100.0, duration_s=50.0)
    late = replace(a_rollout(1), started_at=110.0, duration_s=5.0)
    assert summary_of([a_record(late, early, a_rollout(2))]).elapsed_s == 50.0


def test_a_pause_between_sessions_is_no_time_of_the_run():
    first = replace(a_rollout(0), started_at=100.0, duration_s=10.0)
    next_day = replace(a_rollout(1), started_at=86_500.0, duration_s=10.0)
    found = summary_of([a_record(first, next_day)])
    assert (found.elapsed_s, found.started_at) == (20.0, 100.0)


def test_nothing_recorded_is_no_number():
    found = summary_of([])
    assert found.mean_score is None
    assert found.elapsed_s is None


def test_a_run_is_summed_up_from_its_directory(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        run.add_group(RolloutGroup("item", 0, (a_rollout(),)))
    assert summarise(tmp_path / "run").rollouts == 1


def test_groups_that_give_a_trainer_nothing_are_counted_unless_they_were_dropped_by_choice():
    found = summary_of(
        [
            a_record(a_rollout(0), a_rollout(1)),
            a_record(a_rollout(0), dropped="zero_variance"),
            a_record(a_rollout(0, None), dropped="RecordError"),
            a_record(a_rollout(0, sequences=2), dropped="AmbiguousTrajectory"),
        ]
    )
    assert found.groups_without_data == 2


def test_each_trace_of_a_rollout_is_counted():
    rollout = a_rollout(0, 1.0)
    helper = replace(rollout.trace, name="helper", score=0.0)
    found = summary_of([a_record(replace(rollout, traces=(rollout.trace, helper)), a_rollout(1, 1.0))])
    assert (found.rollouts, found.scores, found.mixed_groups) == (2, [1.0, 0.0, 1.0], 0)
    assert sum(found.turns) == 3


def test_only_tokens_with_a_loss_in_delivered_groups_count_as_trained():
    cut = a_rollout(1, stop=StopReason.TRUNCATED)
    groups = [a_record(a_rollout(0), cut), a_record(cut), a_record(a_rollout(0), dropped="zero_variance")]
    found = summary_of(groups)
    assert (found.trained_tokens, found.tracked_tokens, found.untrained_groups) == (2, 8, 1)


def test_each_reason_for_less_than_was_asked_for_is_named():
    assert summary_of([a_record(a_rollout(0))]).shortfalls(asked=1) == []
    cut = a_rollout(0, stop=StopReason.TRUNCATED)
    records = [
        a_record(cut),
        a_record(a_rollout(0), dropped="zero_variance"),
        a_record(a_rollout(0, sequences=2), dropped="AmbiguousTrajectory"),
    ]
    assert summary_of(records).shortfalls(asked=5) == [
        "2 of 5 requested groups are not recorded",
        "1 groups have no trainable data (AmbiguousTrajectory 1)",
        "1 groups are dropped: equal rewards (collect.zero_variance=drop)",
        "1 groups train no token: token limits cut all their rollouts",
    ]
