"""Holes that a reward must not have."""

import gzip
import io
import json
import tarfile
from dataclasses import replace

import pytest

from atropos_agent.sandbox.protocol import FileEntry
from atropos_environments.terminal_tasks.checks import (
    FileWith,
    Gone,
    GzipOf,
    JsonIs,
    LinkTo,
    ModeIs,
    TarOf,
    check,
    score_of,
)
from atropos_environments.terminal_tasks.generate import generate
from atropos_environments.terminal_tasks.task import Task, Turn, Wanted


def task(
    answer: str | None = None, wanted: dict[str, Wanted] | None = None, *, as_list: bool = False
) -> Task:
    return Task(
        id="made/1/0",
        family="made",
        difficulty=1,
        seed=0,
        prompt="?",
        files={},
        solution=(Turn("true"),),
        answer=answer,
        answer_is_list=as_list,
        wanted=wanted or {},
    )


def a_file(data: bytes, mode: int = 0o644) -> FileEntry:
    return FileEntry("file", mode, len(data), data)


def tar(entries: dict[str, bytes], change: dict[str, object] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for key, value in (change or {}).items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("text", ["17", "It has\n17", " 17 \n", "`17`", "**17**", '"17"', "17."])
def test_the_answer_is_the_last_line(text: str) -> None:
    assert score_of(check(task("17"), text, {}, {})) == 1


@pytest.mark.parametrize(
    "text", ["", "117", "16\n17\n18", "16 17 18", "17 or 18", "17\n0", "It is 17.", "``17``", "17`", "'17\""]
)
def test_printing_more_than_the_answer_does_not_help(text: str) -> None:
    assert score_of(check(task("17"), text, {}, {})) == 0


def test_a_list_must_be_complete_and_nothing_but_complete() -> None:
    listed = task("a\nb", as_list=True)
    assert score_of(check(listed, "./b\na\n", {}, {})) == 1
    assert score_of(check(listed, "a\nb\nc", {}, {})) == 0
    assert score_of(check(listed, "a\na\nb", {}, {})) == 0


@pytest.mark.parametrize("text", ["/workspace/a/b.txt", "./a/b.txt", "`/workspace/a/b.txt`", "'a/b.txt'"])
def test_an_absolute_path_is_the_same_path(text: str) -> None:
    assert score_of(check(task("a/b.txt"), text, {}, {})) == 1
    assert score_of(check(task("a/b.txt\nc", as_list=True), f"**c**\n{text}", {}, {})) == 1
    assert score_of(check(task("b.txt"), text, {}, {})) == 0


@pytest.mark.parametrize("text", ["word.", "a word", "/tmp/word", '""word""'])
def test_a_text_with_anything_more_is_another_text(text: str) -> None:
    assert score_of(check(task("word"), text, {}, {})) == 0


def test_quotes_that_belong_to_the_answer_are_asked_for() -> None:
    assert score_of(check(task("'word'"), "'word'", {}, {})) == 1
    assert score_of(check(task("'word'"), "word", {}, {})) == 0


def test_changing_what_was_not_asked_for_scores_nothing() -> None:
    before = {"x": a_file(b"1"), "y": a_file(b"2")}
    done = task(wanted={"x": Gone()})
    assert score_of(check(done, "", before, {"y": a_file(b"2")})) == 1
    for kept in (
        {},
        {"y": a_file(b"3")},
        {"y": a_file(b"2", 0o600)},
        {"y": FileEntry("symlink", 0o777, 1, target="x")},
    ):
        assert score_of(check(done, "", before, kept)) == 0


def test_a_part_of_the_changes_gives_a_part_of_the_score() -> None:
    half = task(wanted={"y": FileWith(b"1\n"), "z": FileWith(b"1\n")})
    assert score_of(check(half, "", {}, {"z": a_file(b"1")})) == 0.5


def test_deleting_what_should_move_earns_nothing() -> None:
    move = task(wanted={"x": Gone(), "z": FileWith(b"1")})
    before = {"x": a_file(b"1")}
    assert score_of(check(move, "", before, {})) == 0
    assert score_of(check(move, "", before, {"x": a_file(b"1"), "z": a_file(b"1")})) == 0
    assert score_of(check(move, "", before, {"z": a_file(b"1")})) == 1


def test_a_file_that_the_snapshot_cut_is_not_accepted() -> None:
    assert not FileWith(b"abc").holds(FileEntry("file", 0o644, 10, b"abc"))


def test_a_link_in_place_of_a_file_is_not_accepted() -> None:
    link = FileEntry("symlink", 0o777, 3, target="abc")
    assert not FileWith(b"").holds(link)
    assert LinkTo("abc").holds(link)
    assert not LinkTo("abd").holds(link)


@pytest.mark.parametrize("difficulty", [1, 2])
def test_a_link_may_name_its_target_in_any_way_unless_asked_for_one(difficulty: int) -> None:
    [wanted] = generate("make_link", difficulty, 3).wanted.values()
    assert isinstance(wanted, LinkTo)
    for prefix, right in (("", True), ("./", True), ("/workspace/", True), ("../", False), ("/", False)):
        link = FileEntry("symlink", 0o777, 3, target=prefix + wanted.target)
        assert wanted.holds(link) is right
    [relative] = generate("make_link", 3, 3).wanted.values()
    assert isinstance(relative, LinkTo)
    name = relative.target.removeprefix("../")
    assert not relative.holds(FileEntry("symlink", 0o777, 3, target=f"/workspace/{name}"))


def test_a_second_name_is_not_a_copy() -> None:
    assert not FileWith(b"1").holds(FileEntry("file", 0o644, 1, b"1", links=2))
    assert not ModeIs(0o644, b"1").holds(FileEntry("file", 0o644, 1, b"1", links=2))


def test_json_is_compared_by_value() -> None:
    wanted = JsonIs({"a": 1, "b": "x"})
    for right in (b'{"a": 1, "b": "x"}\n', b'{"b":"x","a":1}', b'{\n "a": 1,\n "b": "\\u0078"}'):
        assert wanted.holds(a_file(right))
    for wrong in (
        b"",
        b"{",
        b"\xff",
        b"[" * 50_000,
        b'{"a": 1}',
        b'{"a": true, "b": "x"}',
        b'{"a": "1", "b": "x"}',
        b'{"a": 2, "a": 1, "b": "x"}',
        b'{"a": 1, "b": "x", "c": NaN}',
        b'{"a": 1, "b": "x"}' + b" " * (1 << 20),
    ):
        assert not wanted.holds(a_file(wrong))


def test_a_json_file_may_be_written_in_another_layout() -> None:
    made = generate("json_value", 3, 1)
    before = {path: a_file(data) for path, data in made.files.items()}
    [(path, wanted)] = made.wanted.items()
    assert isinstance(wanted, JsonIs)
    compact = a_file(json.dumps(wanted.value, separators=(",", ":")).encode())
    assert score_of(check(made, "Done.", before, {path: compact})) == 1
    assert score_of(check(made, "Done.", before, before)) == 0


def test_an_unpacked_file_may_leave_or_keep_its_archive() -> None:
    made = generate("unpack_archive", 2, 1)
    [(archive, packed)] = made.files.items()
    before, data = {archive: a_file(packed)}, gzip.decompress(packed)
    done = {archive.removesuffix(".gz"): a_file(data)}
    assert score_of(check(made, "Done.", before, done)) == 1
    assert score_of(check(made, "Done.", before, before | done)) == 1
    assert score_of(check(made, "Done.", before, {archive: a_file(b"")} | done)) == 0
    assert score_of(check(made, "Done.", before, {})) == 0


def test_nothing_else_means_nothing_else() -> None:
    made = generate("unpack_archive", 4, 1)
    before = {path: a_file(data) for path, data in made.files.items()}
    assert made.answer is not None
    assert score_of(check(made, made.answer, before, before)) == 1
    assert score_of(check(made, made.answer, before, before | {"more": a_file(b"")})) == 0
    made = generate("unpack_archive", 5, 1)
    before = {path: a_file(data) for path, data in made.files.items()}
    [(path, wanted)] = made.wanted.items()
    assert isinstance(wanted, FileWith)
    done = before | {path: a_file(wanted.data)}
    assert score_of(check(made, "Done.", before, done)) == 1
    assert score_of(check(made, "Done.", before, done | {"more": FileEntry("dir", 0o755, 0)})) == 0


def test_the_folders_of_what_was_asked_for_are_not_something_else() -> None:
    made = replace(task(wanted={"d/e/y": FileWith(b"1")}), nothing_else=True)
    folders = {"d": FileEntry("dir", 0o755, 0), "d/e": FileEntry("dir", 0o755, 0)}
    assert score_of(check(made, "", {}, {**folders, "d/e/y": a_file(b"1")})) == 1
    assert score_of(check(made, "", {}, {**folders, "d/e/y": a_file(b"1"), "d/z": a_file(b"")})) == 0


@pytest.mark.parametrize("cut", [0, 1])
def test_a_script_that_counts_itself_is_judged_by_its_own_size(cut: int) -> None:
    made = generate("write_script", 5, 1)
    [script] = [path for path in made.wanted if path.endswith(".sh")]
    [target] = [path for path in made.wanted if path != script]
    wanted = made.wanted[script]
    assert isinstance(wanted, FileWith)
    text = wanted.data[: len(wanted.data) - cut]
    before = {path: a_file(data) for path, data in made.files.items()}
    for lie in (0, 1):
        sizes = sorted([0, *map(len, made.files.values()), len(wanted.data) - abs(cut - lie)])
        output = a_file("".join(f"{size}\n" for size in sizes).encode())
        after = before | {script: a_file(text, 0o755), target: output}
        assert score_of(check(made, "Done.", before, after)) == (0.5 if lie else 1)


def test_the_mode_is_compared_with_the_content() -> None:
    assert ModeIs(0o600, b"a").holds(a_file(b"a", 0o600))
    assert not ModeIs(0o600, b"a").holds(a_file(b"b", 0o600))
    assert not ModeIs(0o600, b"a").holds(a_file(b"a", 0o601))


def test_archives_are_compared_by_their_members() -> None:
    wanted = TarOf({"d/a": b"1"})
    assert wanted.holds(a_file(tar({"d/a": b"1"})))
    assert wanted.holds(a_file(tar({"./d/a": b"1"})))
    assert not wanted.holds(a_file(tar({"d/a": b"1", "d/b": b""})))
    assert not wanted.holds(a_file(tar({"d/a": b"2"})))
    assert TarOf({"d/a": b"1"}, gzip=True).holds(a_file(gzip.compress(tar({"d/a": b"1"}))))


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"nonsense" * 100, tar({"a": b"1"})[:300], tar({"a": b"1"})[:600]]
)
def test_a_broken_archive_is_a_failed_check(data: bytes) -> None:
    assert not TarOf({"a": b"1"}).holds(a_file(data))
    assert not TarOf({"a": b"1"}, gzip=True).holds(a_file(data))
    assert not GzipOf(b"1").holds(a_file(data))


def test_a_bomb_is_refused() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert not GzipOf(b"1").holds(a_file(bomb))
    assert not TarOf({"a": b"1"}, gzip=True).holds(a_file(bomb))


def test_links_inside_an_archive_are_refused() -> None:
    assert not TarOf({"a": b""}).holds(a_file(tar({"a": b""}, {"type": tarfile.SYMTYPE, "linkname": "b"})))
