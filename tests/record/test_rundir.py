import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.record import Repair, RunDir, read_groups, read_manifest
from atropos_agent.record.codec import SCHEMA_VERSION
from atropos_agent.trajectory import RolloutGroup
from tests.crashing_writer import GROUP_SIZE, ITEMS, collect
from tests.rollouts import ANY_SPEED, a_rollout, group_of, plain, rollouts

MANIFEST = {"identity": {"seed": 1, "items": "terminal_tasks"}, "versions": {"python": "3.11"}}
KEYS = [(item, repetition) for repetition in range(2) for item in ITEMS]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "one"


def a_group(item="item", repetition=0) -> RolloutGroup:
    return RolloutGroup(item, repetition, (a_rollout(0, 1.0), a_rollout(1, 0.0)))


def test_what_is_written_is_read_again(path):
    group = a_group()
    with RunDir.create(path, MANIFEST) as run:
        run.add_group(group, dropped="zero_variance")
        run.add_group(a_group("other", 1))
    first, second = read_groups(path)
    assert (first.item_id, first.repetition, first.dropped) == ("item", 0, "zero_variance")
    assert plain(first.rollouts) == plain(group.rollouts)
    assert (second.item_id, second.repetition, second.dropped) == ("other", 1, None)


def test_a_line_of_groups_has_the_promised_keys(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_group(a_group())
    line = orjson.loads((path / "groups.jsonl").read_bytes())
    assert list(line) == ["schema", "item_id", "repetition", "rollouts", "dropped"]


@settings(ANY_SPEED, max_examples=25)
@given(st.lists(rollouts(), max_size=3, unique_by=lambda rollout: rollout.id), st.text(max_size=80))
def test_pending_rollouts_come_back_whatever_the_item_is_called(tmp_path_factory, held, item):
    item = item.encode("utf-8", "replace").decode()
    path = tmp_path_factory.mktemp("run")
    with RunDir.create(path, MANIFEST) as run:
        for rollout in held:
            run.add_rollout(item, 0, rollout)
    with RunDir.open(path) as run:
        assert plain(run.pending(item, 0)) == plain(held)
        assert run.pending(item, 1) == []


def test_items_with_similar_names_are_kept_apart(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_rollout("a/b", 0, a_rollout(1))
        run.add_rollout("a_b", 0, a_rollout(2))
        assert [rollout.index for rollout in run.pending("a/b", 0)] == [1]


def test_a_finished_group_takes_nothing_more(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_group(a_group())
        with pytest.raises(RecordError, match="already recorded"):
            run.add_group(a_group())
        with pytest.raises(RecordError, match="already recorded"):
            run.add_rollout("item", 0, a_rollout())


def acknowledged(path: Path) -> set[tuple[str, int, str]]:
    rows = (line.rsplit(" ", 2) for line in path.read_text().splitlines())
    return {(item, int(repetition), rollout) for item, repetition, rollout in rows}


def recorded(path: Path) -> Counter[tuple[str, int, str]]:
    """How often each rollout is held, in finished groups or pending."""
    counts = Counter(
        (record.item_id, record.repetition, rollout.id)
        for record in read_groups(path)
        for rollout in record.rollouts
    )
    with RunDir.open(path) as run:
        for item, repetition in KEYS:
            counts.update((item, repetition, rollout.id) for rollout in run.pending(item, repetition))
    return counts


def assert_resumable(path: Path, acks: set[tuple[str, int, str]]) -> None:
    held = recorded(path)
    assert acks <= set(held), "lost"
    assert set(held.values()) <= {1}, "duplicated"
    with RunDir.open(path) as run:
        collect(run, lambda *_: None)
    rows = [(record.item_id, record.repetition, len(record.rollouts)) for record in read_groups(path)]
    assert sorted(rows) == sorted((item, repetition, GROUP_SIZE) for item, repetition in KEYS)
    assert set(recorded(path).values()) == {1}
    assert list((path / "pending").iterdir()) == []


@pytest.mark.integration
def test_a_writer_killed_in_the_middle_of_a_write_loses_and_repeats_nothing(tmp_path):
    limits = sorted(random.Random(5).sample(range(1, 12_500), 24))
    command = [sys.executable, "-m", "tests.crashing_writer", str(tmp_path), *map(str, limits)]
    subprocess.run(command, check=True, timeout=100)
    killed = 0
    for limit in limits:
        path, acks = tmp_path / str(limit), acknowledged(tmp_path / f"{limit}.acks")
        killed += len(acks) < len(KEYS) * GROUP_SIZE
        assert_resumable(path, acks)
    assert killed > 12


class Recorder:
    """Copies the run directory after every acknowledged rollout, so that any state between can be built."""

    def __init__(self, path: Path, copies: Path) -> None:
        self.path, self.copies = path, copies
        self.acks: list[set[tuple[str, int, str]]] = [set()]
        shutil.copytree(path, copies / "0")

    def acknowledge(self, item: str, repetition: int, rollout: str) -> None:
        self.acks.append(self.acks[-1] | {(item, repetition, rollout)})
        shutil.copytree(self.path, self.copies / str(len(self.acks) - 1))


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*.jsonl")}


def test_every_prefix_of_every_write_resumes(tmp_path):
    path = tmp_path / "run"
    with RunDir.create(path, MANIFEST) as run:
        recorder = Recorder(path, tmp_path)
        collect(run, recorder.acknowledge)
    choose = random.Random(7)
    for number, acks in enumerate(recorder.acks[1:], 1):
        before, after = files(tmp_path / str(number - 1)), files(tmp_path / str(number))
        for name in sorted(after):
            start, end = len(before.get(name, b"")), len(after[name])
            cuts = {start + 1, end - 1, end, choose.randrange(start, end)} if end > start else set()
            for cut in cuts:
                torn = tmp_path / "torn"
                shutil.copytree(tmp_path / str(number - 1), torn)
                (torn / name).write_bytes(after[name][:cut])
                assert_resumable(torn, recorder.acks[number - 1])
                shutil.rmtree(torn)
        assert acks


def test_a_torn_end_is_cut_off_and_reported(path, caplog):
    with RunDir.create(path, MANIFEST) as run:
        run.add_group(a_group())
        run.add_metrics({"groups": 1})
    whole = (path / "groups.jsonl").read_bytes()
    (path / "groups.jsonl").write_bytes(whole + whole[:100])
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b"\0" * 70_000 + b"\n")
    with RunDir.open(path) as run:
        assert run.repairs == (Repair("groups.jsonl", 100), Repair("metrics.jsonl", 70_001))
        assert run.finished == {("item", 0)}
    assert "unfinished line of 100 bytes" in caplog.text
    assert (path / "groups.jsonl").read_bytes() == whole


def test_damage_in_the_middle_is_refused_and_nothing_is_cut(path):
    with RunDir.create(path, MANIFEST) as run:
        for number in range(3):
            run.add_group(a_group(str(number)))
    lines = (path / "groups.jsonl").read_bytes().splitlines(keepends=True)
    damaged = lines[0] + b"\0" * 50 + b"\n" + lines[2]
    (path / "groups.jsonl").write_bytes(damaged)
    with pytest.raises(RunDirectoryError, match="line 2"):
        RunDir.open(path)
    assert (path / "groups.jsonl").read_bytes() == damaged


def test_a_crash_after_the_group_and_before_its_pending_file_is_gone_repeats_nothing(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_rollout("item", 0, a_rollout(0))
        kept = files(path)
        run.add_group(a_group())
    for name, content in kept.items():
        if name.startswith("pending"):
            (path / name).write_bytes(content)
    with RunDir.open(path) as run:
        assert run.pending("item", 0) == []
        assert ("item", 0) in run.finished


@pytest.mark.integration
def test_a_child_process_does_not_keep_a_closed_run(path):
    with RunDir.create(path, MANIFEST) as run:
        child = subprocess.Popen(["sleep", "30"], pass_fds=[run._lock_fd])
    try:
        RunDir.open(path).close()
    finally:
        child.kill()
        child.wait()


def test_two_writers_are_refused(path):
    with RunDir.create(path, MANIFEST), pytest.raises(RunDirectoryError, match=str(os.getpid())):
        RunDir.open(path)
    RunDir.open(path).close()


@pytest.mark.parametrize("file", ["run.yaml", "groups.jsonl"])
def test_a_newer_schema_is_refused(path, file):
    with RunDir.create(path, MANIFEST) as run:
        run.add_group(a_group())
    text = (path / file).read_text()
    newer = SCHEMA_VERSION + 1
    for form in ("schema: {}", '"schema":{}'):
        text = text.replace(form.format(SCHEMA_VERSION), form.format(newer))
    (path / file).write_text(text)
    with pytest.raises(RunDirectoryError, match=rf"schema {newer}.*upgrade"):
        RunDir.open(path)


def test_another_identity_is_refused_by_name_and_the_same_is_not(path):
    RunDir.create(path, MANIFEST).close()
    other = {**MANIFEST, "identity": {"seed": 2, "items": "terminal_tasks"}}
    with pytest.raises(RunDirectoryError, match=r"seed: 1, given 2"):
        RunDir.open(path, other)
    RunDir.open(path, {**MANIFEST, "versions": {"python": "3.13"}}).close()


def test_a_run_is_not_begun_twice_and_not_among_foreign_files(path, tmp_path):
    RunDir.create(path, MANIFEST).close()
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        RunDir.create(path, MANIFEST)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunDirectoryError, match="letter"):
        RunDir.create(tmp_path, MANIFEST)
    assert not (tmp_path / "lock").exists()


def test_a_run_that_died_while_it_was_made_can_be_made_again(path):
    RunDir.create(path, MANIFEST).close()
    (path / "run.yaml").unlink()
    with pytest.raises(RunDirectoryError, match="no run"):
        RunDir.open(path)
    RunDir.create(path, MANIFEST).close()


def test_no_key_is_written_down(path):
    secrets = {
        "policy": {"api_key": "sk-1", "max_tokens": 5, "tokenizer": "qwen", "api_key_env": "MY_KEY"},
        "env": {"HF_TOKEN": "hf-2", "apiKey": "sk-3", "passwords": ["p4"]},
        "url": "http://me:pw5@host/v1?key=k6&x=1",
        "headers": {"Authorization": "Bearer b7"},
        "argv": ["--policy.api_key=k8"],
    }
    RunDir.create(path, secrets).close()
    text = (path / "run.yaml").read_text()
    for secret in ("sk-1", "hf-2", "sk-3", "p4", "pw5", "k6", "b7", "k8"):
        assert secret not in text
    kept = read_manifest(path)
    assert kept["policy"] == {"api_key": "***", "max_tokens": 5, "tokenizer": "qwen", "api_key_env": "MY_KEY"}
    assert kept["url"] == "http://***@host/v1?key=***&x=1"


def test_the_manifest_comes_back_as_it_was(path):
    manifest = {
        "identity": {"seed": 1, "lr": 1e-05, "note": "1e5", "day": "2026-01-01", "off": "no"},
        "ü": None,
    }
    RunDir.create(path, manifest).close()
    assert read_manifest(path) == {"schema": SCHEMA_VERSION, **manifest}
    assert yaml.safe_load((path / "run.yaml").read_text())["schema"] == SCHEMA_VERSION
    RunDir.open(path, manifest).close()


def test_a_full_disk_is_named_and_leaves_earlier_lines(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_group(a_group())
        whole = (path / "groups.jsonl").read_bytes()
        (path / "metrics.jsonl").unlink()
        (path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl.*No space left.*resume"):
            run.add_metrics({"groups": 1})
    assert (path / "groups.jsonl").read_bytes() == whole


@pytest.mark.integration
def test_a_write_that_fails_half_way_leaves_no_half_line(path):
    script = """
import resource, sys
from atropos_agent.errors import RunDirectoryError
from atropos_agent.record import RunDir
from tests.record.test_rundir import a_group
with RunDir.create(sys.argv[1], {}) as run:
    run.add_group(a_group("a"))
    size = (run.path / "groups.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    try:
        run.add_group(a_group("b"))
    except RunDirectoryError as error:
        assert "groups.jsonl" in str(error)
        assert (run.path / "groups.jsonl").stat().st_size == size
        assert run.finished == {("a", 0)}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run.add_group(a_group("b"))
        sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60).returncode == 7
    assert [record.item_id for record in read_groups(path)] == ["a", "b"]


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirectoryError, match=r"file.*choose another path"):
            RunDir.create(path, MANIFEST)


def test_an_unwritable_directory_is_named():
    with pytest.raises(RunDirectoryError, match=r"/proc/no-such-run"):
        RunDir.create("/proc/no-such-run", MANIFEST)


def test_many_threads_write_whole_lines(path):
    with RunDir.create(path, MANIFEST) as run, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: run.add_rollout(f"item{n % 4}", 0, a_rollout(n)), range(64)))
        assert sorted(r.index for n in range(4) for r in run.pending(f"item{n}", 0)) == list(range(64))
        list(pool.map(lambda n: run.add_group(a_group(f"item{n}")), range(32)))
        list(pool.map(lambda n: run.add_metrics({"n": n}), range(32)))
    assert len(list(read_groups(path))) == 32
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 32


def test_a_reader_beside_the_writer_sees_whole_groups_only(path):
    stop = threading.Event()
    with RunDir.create(path, MANIFEST) as run, ThreadPoolExecutor(1) as pool:
        counts = pool.submit(lambda: [len(list(read_groups(path))) for _ in iter(stop.is_set, True)])
        for number in range(30):
            run.add_group(a_group(str(number)))
        stop.set()
    assert counts.result() == sorted(counts.result())


def test_a_rollout_written_twice_counts_once(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_rollout("item", 0, a_rollout(0, 0.0))
        run.add_rollout("item", 0, a_rollout(0, 1.0))
        assert [rollout.score for rollout in run.pending("item", 0)] == [1.0]


def test_a_number_that_is_not_finite_never_reaches_the_log(path):
    with RunDir.create(path, MANIFEST) as run:
        with pytest.raises(RecordError, match="score"):
            run.add_group(group_of(a_rollout(0, float("nan"))))
        run.add_metrics({"loss": float("nan")})
    assert b"NaN" not in (path / "metrics.jsonl").read_bytes()
    assert (path / "groups.jsonl").read_bytes() == b""


def test_a_group_without_rollouts_is_refused(path):
    with RunDir.create(path, MANIFEST) as run, pytest.raises(RecordError, match="no rollouts"):
        run.add_group(group_of())


def test_what_a_newer_version_left_pending_reaches_the_group(path):
    with RunDir.create(path, MANIFEST) as run:
        run.add_rollout("item", 0, a_rollout(0))
    (file,) = (path / "pending").iterdir()
    line = orjson.loads(file.read_bytes())
    line["rollout"]["traces"][0]["result"]["mood"] = "good"
    line["rollout"]["weather"] = {"rain": True}
    file.write_bytes(orjson.dumps(line) + b"\n")
    with RunDir.open(path) as run:
        (known,) = run.pending("item", 0)
        run.add_group(group_of(known, a_rollout(1)))
    first, second = orjson.loads((path / "groups.jsonl").read_bytes())["rollouts"]
    assert first == line["rollout"]
    assert "weather" not in second
