"""Holes that a reward must not have."""

import gzip
import io
import tarfile

import pytest

from atropos_agent.sandbox.protocol import FileEntry
from atropos_environments.terminal_tasks.checks import (
    FileWith,
    Gone,
    GzipOf,
    LinkTo,
    ModeIs,
    TarOf,
    check,
    score_of,
)
from atropos_environments.terminal_tasks.task import Task, Turn, Wanted


def task(
    answer: str | None = None, wanted: dict[str, Wanted] | None = None, *, as_list: bool = False
) -> Task:
    return Task(
        "made/1/0",
        "made",
        1,
        0,
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


@pytest.mark.parametrize("text", ["17", "It has\n17", " 17 \n", "`17`"])
def test_the_answer_is_the_last_line(text: str) -> None:
    assert score_of(check(task("17"), text, {}, {})) == 1


@pytest.mark.parametrize("text", ["", "117", "16\n17\n18", "16 17 18", "17 or 18", "17\n0"])
def test_printing_more_than_the_answer_does_not_help(text: str) -> None:
    assert score_of(check(task("17"), text, {}, {})) == 0


def test_a_list_must_be_complete_and_nothing_but_complete() -> None:
    listed = task("a\nb", as_list=True)
    assert score_of(check(listed, "./b\na\n", {}, {})) == 1
    assert score_of(check(listed, "a\nb\nc", {}, {})) == 0
    assert score_of(check(listed, "a\na\nb", {}, {})) == 0


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
