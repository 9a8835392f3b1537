from dataclasses import replace

from atropos_agent.errors import ServerUnreachable
from atropos_agent.export import scored_group
from atropos_agent.record import GroupRecord, RunDir
from atropos_agent.sinks.summary import summarise, summary_of
from atropos_agent.trajectory import Failure, RolloutGroup, StopReason
from tests.rollouts import NAN, a_rollout, with_result


def a_record(*rollouts, dropped=None) -> GroupRecord:
    return GroupRecord("item", 0, None, rollouts, dropped)


def test_scores_groups_and_reasons_are_counted():
    summary = summary_of(
        [
            a_record(a_rollout(0, 1.0), a_rollout(1, 0.0), a_rollout(2, None, stop=StopReason.ERROR)),
            a_record(a_rollout(3, 1.0), a_rollout(4, 1.0), dropped="zero_variance"),
        ]
    )
    assert (summary.groups, summary.mixed_groups, summary.rollouts) == (2, 1, 5)
    assert summary.mean_score == 0.75
    assert summary.stop_reasons == {"final_answer": 4, "error": 1}
    assert summary.dropped == {"zero_variance": 1}


def test_trained_tokens_without_a_logprob_are_told_apart():
    summary = summary_of([a_record(a_rollout(0), a_rollout(1, logprobs=(-0.5, NAN)))])
    assert (summary.trained_tokens, summary.logprobs) == (4, 3)
    assert summary.steps_by_provenance == {"sampled": 2}


def test_errors_and_isolation_are_counted():
    rollout = a_rollout(0, None, stop=StopReason.ERROR)
    failed = with_result(rollout, failure=Failure.of(ServerUnreachable("gone")))
    summary = summary_of([a_record(replace(failed, isolation={"backend": "local", "unsafe": True}))])
    assert summary.errors == {"ServerUnreachable": 1}
    assert summary.backends == {"local": 1}
    assert summary.unsafe == 1


def test_breaks_and_the_sequences_they_cost_are_counted():
    branched, plain = a_rollout(0, 1.0, sequences=3), a_rollout(1, 0.0)
    group = scored_group(RolloutGroup("item", 0, (branched, plain)), on_branch="last")
    summary = summary_of([GroupRecord("item", 0, group, (branched, plain), None)])
    assert (summary.breaks, summary.sequences_left_out) == ({"template": 2}, 2)


def test_time_runs_from_the_first_start_to_the_last_end():
    early = replace(a_rollout(0), started_at=100.0, duration_s=50.0)
    late = replace(a_rollout(1), started_at=110.0, duration_s=5.0)
    assert summary_of([a_record(late, early, a_rollout(2))]).elapsed_s == 50.0


def test_a_pause_between_sessions_is_no_time_of_the_run():
    first = replace(a_rollout(0), started_at=100.0, duration_s=10.0)
    next_day = replace(a_rollout(1), started_at=86_500.0, duration_s=10.0)
    summary = summary_of([a_record(first, next_day)])
    assert (summary.elapsed_s, summary.started_at) == (20.0, 100.0)


def test_nothing_recorded_is_no_number():
    summary = summary_of([])
    assert summary.mean_score is None
    assert summary.elapsed_s is None


def test_a_run_is_summed_up_from_its_directory(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        run.add_group(RolloutGroup("item", 0, (a_rollout(),)), None)
    assert summarise(tmp_path / "run").rollouts == 1


def test_groups_that_give_a_trainer_nothing_are_counted_unless_they_were_dropped_by_choice():
    group = scored_group(RolloutGroup("item", 0, (a_rollout(0), a_rollout(1))))
    summary = summary_of(
        [
            GroupRecord("a", 0, group, (), None),
            GroupRecord("b", 0, group, (), "zero_variance"),
            GroupRecord("c", 0, None, (), "RecordError"),
            GroupRecord("d", 0, None, (), None),
        ]
    )
    assert summary.groups_without_data == 2
