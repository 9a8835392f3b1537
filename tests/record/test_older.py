"""Runs of schemas 1 and 2, written by the versions that had them: read, derived, sealed and continued."""

import shutil
from pathlib import Path

import pytest

from atropos_agent.errors import RecordError
from atropos_agent.export import Rules, scored_groups
from atropos_agent.export.atropos import shaped
from atropos_agent.record import RunDir, read_groups
from atropos_agent.record.codec import rollout_from_json
from atropos_agent.record.durable import read_lines
from atropos_agent.trajectory import Blame, BreakKind, FailureKind
from tests.rollouts import a_rollout, group_of, plain

RUNS = [Path(__file__).with_name(f"schema_{number}") for number in (1, 2)]


@pytest.fixture(params=RUNS, ids=["schema 1", "schema 2"])
def path(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "run")


def stored(path: Path) -> list[dict]:
    with (path / "groups.jsonl").open("rb") as lines:
        return list(read_lines(lines))


def test_what_was_recorded_is_read(path):
    *collected, made = read_groups(path)
    assert len(collected) == 2
    for record, line in zip([*collected, made], stored(path), strict=True):
        for rollout, old in zip(record.rollouts, line["rollouts"], strict=True):
            assert rollout.score == old["score"]
            assert rollout.result.stop_reason == old["stop_reason"]
            assert [step.observation for step in rollout.result.steps] == [
                s["observation"] for s in old["steps"]
            ]
            assert [held.tokens for held in rollout.result.sequences] == [
                s["token_ids"] for s in old["sequences"]
            ]


def test_the_derived_group_is_the_one_that_was_stored(path):
    for record, line in zip(read_groups(path), stored(path), strict=True):
        assert shaped(record.group, Rules(on_branch="last")) == line["group"]
    assert len(list(scored_groups(path))) == 2  # the third has a branch, which its run refuses


def test_an_old_error_becomes_a_failure(path):
    *_, made = read_groups(path)
    server, odd = (rollout.result.failure for rollout in made.rollouts[2:])
    assert (server.kind, server.blame, server.retryable) == (FailureKind.SERVER, Blame.INFRASTRUCTURE, True)
    assert (server.error_type, server.text) == ("ServerUnreachable", "nobody at http://127.0.0.1:1")
    assert (odd.kind, odd.error_type, odd.text) == (FailureKind.OTHER, "KeyError", "odd")


def test_breaks_came_with_schema_2():
    found = [list(read_groups(run))[-1].rollouts[0].result.breaks for run in RUNS]
    assert found[0] == ()
    assert [(one.step_number, one.kind) for one in found[1]] == [(2, BreakKind.TEMPLATE)]


def test_an_old_run_goes_on_and_is_sealed(path):
    before = plain(list(read_groups(path)))
    with RunDir.open(path) as run:
        assert [rollout.score for rollout in run.pending("open", 1)] == [1.0]
        run.add_group(group_of(a_rollout()))
        both = plain(list(read_groups(path)))
        assert run.seal().rollouts == 9
    assert plain(list(read_groups(path))) == both
    assert both[1][:3] == before[1]


def test_an_old_record_without_a_field_is_refused():
    (line, *_) = stored(RUNS[1])
    del line["rollouts"][0]["score"]
    with pytest.raises(RecordError, match="score"):
        rollout_from_json(line["rollouts"][0], 2)
