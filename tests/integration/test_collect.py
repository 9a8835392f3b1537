import asyncio
import json
from dataclasses import replace

import pytest

from atropos_agent.collect import Collector
from atropos_agent.config import CollectConfig, EnvConfig, SandboxConfig
from atropos_agent.errors import ProviderError, RunDirectoryError, ServerUnreachable
from atropos_agent.export import scored_groups
from atropos_agent.record import RunDir, read_groups, read_manifest
from atropos_agent.testing import FakePolicy
from atropos_agent.trajectory import Rollout, StopReason
from tests.spelling import Spelling, solve, solve_some
from tests.tokenizers_for_tests import chatml_renderer

RENDERER = chatml_renderer()
STOP = int(RENDERER.certificate.close_ids[0])
MANIFEST = {"identity": {"environment": "spelling"}}


def spelling(scripts, *, delay_s=0.0, slots=4, **settings) -> Spelling:
    return Spelling(
        FakePolicy(scripts, RENDERER, stop_id=STOP, delay_s=delay_s),
        RENDERER,
        config=EnvConfig(group_size=3, infrastructure_retries=0, **settings),
        sandbox=SandboxConfig(slots=slots),
    )


async def collect(path, scripts=solve, *, groups=4, resume=False, **options):
    env_options = {key: options.pop(key) for key in ("delay_s", "slots") if key in options}
    async with spelling(scripts, **env_options) as env:
        with RunDir.open(path, MANIFEST) if resume else RunDir.create(path, MANIFEST) as log:
            return await Collector(env, log, CollectConfig(groups=groups, **options)).run()


def rollouts_of(path) -> dict[str, float]:
    """Every recorded rollout and when it started; fails on a rollout recorded twice."""
    found: dict[str, float] = {}
    for record in read_groups(path):
        for rollout in record.rollouts:
            assert rollout.id not in found, f"{rollout.id} is recorded twice"
            found[rollout.id] = rollout.started_at
    return found


async def test_what_is_collected_is_on_disk_with_its_tokens(tmp_path):
    progress = await collect(tmp_path / "run")
    records = list(read_groups(tmp_path / "run"))
    assert (progress.groups_done, progress.rollouts_done, progress.mean_reward) == (4, 12, 1.0)
    assert [len(group["tokens"]) for group in scored_groups(tmp_path / "run")] == [3, 3, 3, 3]
    assert all(
        rollout.result.stop_reason is StopReason.FINAL_ANSWER for r in records for rollout in r.rollouts
    )
    assert len({record.item_id for record in records}) == 4


async def test_going_on_repeats_nothing(tmp_path):
    await collect(tmp_path / "run", groups=2)
    before = rollouts_of(tmp_path / "run")
    progress = await collect(tmp_path / "run", groups=5, resume=True)
    after = rollouts_of(tmp_path / "run")
    assert (progress.groups_resumed, progress.groups_done, len(after)) == (2, 3, 15)
    assert before.items() <= after.items()


async def test_a_cancel_keeps_finished_rollouts_and_going_on_takes_them_over(tmp_path):
    slow = {"delay_s": 0.1, "slots": 2}
    running = asyncio.create_task(collect(tmp_path / "run", groups=3, **slow))
    pending = tmp_path / "run" / "pending"
    while not (pending.exists() and any(pending.iterdir())):  # noqa: ASYNC110  a folder tells nobody
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    kept = sum(len(file.read_bytes().splitlines()) for file in pending.iterdir())
    progress = await collect(tmp_path / "run", groups=3, resume=True)
    assert kept >= 1
    assert progress.rollouts_done == 9 - kept
    assert len(rollouts_of(tmp_path / "run")) == 9


async def test_a_dead_server_stops_the_run_and_keeps_earlier_groups(tmp_path):
    calls = iter(range(1000))

    def dies(messages, step):
        return solve(messages, step) if next(calls) < 12 else ServerUnreachable("nobody at http://x")

    with pytest.raises(ProviderError, match="ServerUnreachable: nobody at http://x"):
        await collect(tmp_path / "run", dies, groups=50, slots=1)
    kept = rollouts_of(tmp_path / "run")
    assert len(kept) >= 3
    await collect(tmp_path / "run", groups=4, resume=True)
    assert kept.items() <= rollouts_of(tmp_path / "run").items()


async def test_groups_of_equal_rewards_are_dropped_on_demand_but_stay_on_record(tmp_path):
    progress = await collect(tmp_path / "run", solve_some, groups=4, zero_variance="drop")
    records = list(read_groups(tmp_path / "run"))
    assert [record.dropped for record in records] == ["zero_variance"] * 4
    assert list(scored_groups(tmp_path / "run")) == []
    assert [len(record.rollouts) for record in records] == [3] * 4
    assert progress.groups_mixed == 0


async def test_mixed_groups_are_counted(tmp_path):
    turns = iter(range(1000))

    def every_other(messages, step):
        return solve(messages, step) if step > 1 or next(turns) % 2 else "I give up"

    progress = await collect(tmp_path / "run", every_other, groups=2)
    assert progress.groups_mixed == 2


async def test_a_full_disk_stops_the_run_with_its_reason(tmp_path):
    path = tmp_path / "run"
    async with spelling(solve) as env:
        with RunDir.create(path, MANIFEST) as log:
            (path / "groups.jsonl").unlink()
            (path / "groups.jsonl").symlink_to("/dev/full")
            with pytest.raises(RunDirectoryError, match="No space left"):
                await Collector(env, log, CollectConfig(groups=4)).run()


async def test_a_rollout_that_could_not_be_scored_is_told_of_in_the_metrics(tmp_path):
    calls = iter(range(1000))

    def one_fails(messages, step):
        return ServerUnreachable("nobody") if next(calls) == 0 else solve(messages, step)

    await collect(tmp_path / "run", one_fails, groups=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (failed,) = [line for line in lines if "failed" in line]
    assert (failed["error_type"], failed["error"], failed["steps"]) == ("ServerUnreachable", "nobody", 0)


def test_a_prompt_survives_the_manifest_and_a_secret_does_not(tmp_path):
    config = {
        "agent": {"system_prompt": "write key=value"},
        "env": {"judge_key": "sk-1", "url": "http://u:p@h/x"},
    }
    with RunDir.create(tmp_path / "run", {"config": config, "identity": config}):
        pass
    kept = read_manifest(tmp_path / "run")["config"]
    assert kept["agent"] == config["agent"]
    assert kept["env"] == {"judge_key": "***", "url": "http://***@h/x"}
    with pytest.raises(RunDirectoryError, match="give them again"):
        RunDir.open(tmp_path / "run", {"identity": kept})


def cancelled(rollout: Rollout) -> Rollout:
    result = replace(rollout.result, stop_reason=StopReason.CANCELLED)
    return replace(rollout, traces=(replace(rollout.trace, result=result, score=None),))


class Cancelling(Spelling):
    """The first rollout of each group is stopped under way, and its record handed out."""

    async def rollout(self, item, **options):
        rollout = await super().rollout(item, **options)
        return cancelled(rollout) if options["index"] == 0 else rollout


async def test_a_cancelled_rollout_is_counted_never_kept_and_sampled_again(tmp_path):
    path = tmp_path / "run"
    env = Cancelling(
        FakePolicy(solve, RENDERER, stop_id=STOP),
        RENDERER,
        config=EnvConfig(group_size=3, infrastructure_retries=0),
        sandbox=SandboxConfig(slots=4),
    )
    async with env:
        with RunDir.create(path, MANIFEST) as log:
            progress = await Collector(env, log, CollectConfig(groups=5)).run()
    assert progress.stop_reasons == {"cancelled": 5, "final_answer": 10}
    assert (progress.groups_done, progress.groups_failed) == (0, 5)
    assert list(read_groups(path)) == []
    assert b"cancelled" not in b"".join(file.read_bytes() for file in (path / "pending").iterdir())
    progress = await collect(path, groups=5, resume=True)
    assert (progress.groups_done, progress.rollouts_done) == (5, 5)
    assert len(rollouts_of(path)) == 15


async def test_an_unscored_rollout_is_recorded_with_its_group(tmp_path):
    calls = iter(range(1000))

    def one_fails(messages, step):
        return ServerUnreachable("nobody") if next(calls) == 0 else solve(messages, step)

    async with spelling(one_fails, min_group_size=2) as env:
        with RunDir.create(tmp_path / "run", MANIFEST) as log:
            await Collector(env, log, CollectConfig(groups=1)).run()
    (record,) = read_groups(tmp_path / "run")
    (failed,) = [rollout for rollout in record.rollouts if rollout.score is None]
    assert len(record.rollouts) == 3
    assert failed.result.failure is not None
    assert failed.result.failure.text == "nobody"
