import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atropos_agent.errors import RunDirectoryError
from atropos_agent.export import scored_groups
from atropos_agent.record import RunDir, read_groups, read_rollouts
from atropos_agent.record import seal as seal_module
from atropos_agent.record.log import rows, segments
from atropos_agent.record.segments import segment_keys
from atropos_agent.trajectory import RolloutGroup
from scripts import bench_record
from tests.crashing_writer import GROUP_SIZE, ITEMS, collect
from tests.rollouts import ANY_SPEED, a_rollout, plain, rollouts


def write(path: Path, groups: int, first: int = 0) -> Path:
    """Groups of two scored rollouts and one that is not, whose items are numbered from `first`."""
    with RunDir.create(path, {}) if not path.exists() else RunDir.open(path) as run:
        for number in range(first, first + groups):
            held = (a_rollout(0, 1.0), a_rollout(1, 0.0, sequences=1 + number % 2), a_rollout(2, None))
            run.add_group(RolloutGroup(f"item{number}", 0, held), "zero_variance" if number % 3 else None)
    return path


def seal(path: Path):
    with RunDir.open(path) as run:
        return run.seal()


def held_in(path: Path) -> object:
    return plain(list(read_groups(path)))


def test_a_sealed_run_reads_the_same(tmp_path):
    path = write(tmp_path / "run", 5)
    before, groups = held_in(path), list(scored_groups(path))
    sealed = seal(path)
    assert (sealed.rollouts, (path / "groups.jsonl").stat().st_size) == (15, 0)
    assert held_in(path) == before
    assert list(scored_groups(path)) == groups


@settings(ANY_SPEED, max_examples=25)
@given(st.lists(st.lists(rollouts(), min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_rollout_survives_sealing(tmp_path_factory, groups):
    path = tmp_path_factory.mktemp("run")
    with RunDir.create(path, {}) as run:
        for number, held in enumerate(groups):
            run.add_group(RolloutGroup(f"item{number}", number, tuple(held)))
        before = held_in(path)
        run.seal()
    assert held_in(path) == before


def test_an_offset_means_the_same_row_before_and_after_sealing_and_in_between(tmp_path):
    path = write(tmp_path / "run", 4)
    seal(path)
    write(path, 3, first=4)
    names = [f"{row.item_id} {row.rollout['id']}" for row in rows(path)]
    assert len(names) == 21
    for _ in range(2):
        for start in range(22):
            found = [f"{row.item_id} {row.rollout['id']}" for row in rows(path, start)]
            assert found == names[start:]
        seal(path)
    assert [segment.name for segment in segments(path)] == ["000000000000.parquet", "000000000012.parquet"]
    assert [rollout.id for rollout in read_rollouts(path, 19)] == ["r1", "r2"]


def test_a_sealed_run_goes_on(tmp_path):
    path = tmp_path / "run"
    with RunDir.create(path, {}) as run:
        run.add_group(RolloutGroup(ITEMS[0], 0, tuple(a_rollout(index) for index in range(GROUP_SIZE))))
        run.seal()
    with RunDir.open(path) as run:
        assert run.finished == {(ITEMS[0], 0)}
        collect(run, lambda *_: None)
        run.seal()
    found = [(record.item_id, record.repetition, len(record.rollouts)) for record in read_groups(path)]
    assert sorted(found) == sorted((item, number, GROUP_SIZE) for item in ITEMS for number in range(2))


def test_sealing_nothing_writes_nothing(tmp_path):
    path = write(tmp_path / "run", 2)
    seal(path)
    assert seal(path).rollouts == 0
    assert len(segments(path)) == 1


@pytest.mark.integration
def test_a_seal_that_ends_before_any_of_its_steps_loses_and_doubles_nothing(tmp_path):
    path = write(tmp_path / "run", 3)
    seal(path)
    write(path, 3, first=3)
    whole = held_in(path)
    command = [sys.executable, "-m", "tests.crashing_sealer", str(path), str(tmp_path / "cut")]
    subprocess.run(command, check=True, timeout=100)
    cuts = sorted((tmp_path / "cut").iterdir(), key=lambda cut: int(cut.name))
    assert len(cuts) >= 5
    states = set()
    for cut in cuts:
        states.add((len(segments(cut)), (cut / "groups.jsonl").stat().st_size > 0))
        assert held_in(cut) == whole
        with RunDir.open(cut) as run:
            assert len(run.finished) == 6
            assert held_in(cut) == whole
            run.seal()
        assert held_in(cut) == whole
        assert (cut / "groups.jsonl").stat().st_size == 0
        assert not [file for file in cut.rglob(".*") if file.is_file()]
    assert states == {(1, True), (2, True), (2, False)}


def seal_with_file_limit(path: Path, limit: int) -> int:
    """Seal in a child that the kernel kills where a file grows beyond `limit` bytes; its exit status."""
    sealing = "with RunDir.open(sys.argv[1]) as run: run.seal()"
    script = f"import sys\nfrom atropos_agent.record import RunDir\n{sealing}"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n{script}"
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, check=False, timeout=60, preexec_fn=limited).returncode


@pytest.mark.integration
def test_a_seal_killed_in_the_middle_of_its_segment_loses_nothing(tmp_path):
    path = write(tmp_path / "run", 4)
    whole = held_in(path)
    size = seal(shutil.copytree(path, tmp_path / "sealed")).segment_bytes
    for limit in (4, size // 2, size - 1):
        assert seal_with_file_limit(path, limit) == -signal.SIGXFSZ
        assert held_in(path) == whole
    seal(path)
    assert held_in(path) == whole


@pytest.mark.integration
def test_a_sealing_process_killed_at_any_moment_loses_and_doubles_nothing(tmp_path):
    path = write(tmp_path / "run", 40)
    whole, choose = held_in(path), random.Random(3)
    script = "import sys\nfrom atropos_agent.cli import app\nprint(flush=True)\napp(['seal', sys.argv[1]])"
    for number in range(6):
        copy = shutil.copytree(path, tmp_path / f"copy{number}")
        child = subprocess.Popen([sys.executable, "-c", script, str(copy)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(choose.uniform(0.0, 0.4))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert held_in(copy) == whole
        seal(copy)
        assert held_in(copy) == whole


def test_a_reader_that_began_before_a_seal_reads_every_row_once(tmp_path):
    path = write(tmp_path / "run", 6)
    whole = [row.rollout["id"] for row in rows(path)]
    reading = rows(path)
    found = [next(reading).rollout["id"]]
    seal(path)
    assert found + [row.rollout["id"] for row in reading] == whole


def test_what_a_newer_version_recorded_is_kept_when_it_is_sealed_and_continued(tmp_path):
    path = write(tmp_path / "run", 1)
    line = orjson.loads((path / "groups.jsonl").read_bytes())
    line["seen"] = "tomorrow"
    line["rollouts"][0]["traces"][0]["result"]["mood"] = {"good": True}
    (path / "groups.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    seal(path)
    first, *_ = rows(path)
    assert first.more == {"seen": "tomorrow"}
    assert first.rollout["traces"][0]["result"]["mood"] == {"good": True}


def test_a_segment_of_a_newer_schema_and_a_damaged_one_are_refused(tmp_path):
    path = write(tmp_path / "run", 1)
    seal(path)
    (segment,) = segments(path)
    table = pq.read_table(segment)
    pq.write_table(table.replace_schema_metadata({"atropos_agent.schema": "9"}), segment)
    with pytest.raises(RunDirectoryError, match=r"schema 9.*upgrade"):
        list(read_groups(path))
    segment.write_bytes(segment.read_bytes()[:-20])
    with pytest.raises(RunDirectoryError, match="parquet cannot be read"):
        RunDir.open(path)


def test_opening_reads_the_keys_and_not_the_tokens(tmp_path):
    """The pages of all other columns may be unreadable."""
    path = write(tmp_path / "run", 3)
    seal(path)
    (segment,) = segments(path)
    held = pq.ParquetFile(segment).metadata.row_group(0)
    columns = {held.column(at).path_in_schema: held.column(at) for at in range(held.num_columns)}
    content = bytearray(segment.read_bytes())
    for name in ("token_ids.list.element", "logprobs.list.element", "record"):
        column = columns[name]
        start = column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    segment.write_bytes(content)
    with RunDir.open(path) as run:
        assert len(run.finished) == 3
    assert len(segment_keys(segment)) == 3


def test_random_tokens_cost_little_more_than_their_entropy(tmp_path):
    path, count = tmp_path / "run", 2000
    RunDir.create(path, {}).close()
    with (path / "groups.jsonl").open("wb") as file:
        file.writelines(bench_record.lines(count))
    size = seal(path).segment_bytes
    ids, logprobs = count * (bench_record.PROMPT + bench_record.SAMPLED), count * bench_record.SAMPLED
    assert size <= 3.5 * logprobs + 2.4 * ids + 400 * count


def test_a_seal_that_failed_at_its_last_step_and_is_tried_again_doubles_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "run", 3)
    with RunDir.open(path) as run:
        real = seal_module.replacing

        def full(target):
            if target.name == "groups.jsonl":
                raise OSError(28, "No space left on device")
            return real(target)

        monkeypatch.setattr(seal_module, "replacing", full)
        with pytest.raises(RunDirectoryError, match="No space left"):
            run.seal()
        monkeypatch.setattr(seal_module, "replacing", real)
        run.add_group(RolloutGroup("more", 0, (a_rollout(0, 1.0),)))
        run.seal()
    assert [record.item_id for record in read_groups(path)] == ["item0", "item1", "item2", "more"]
