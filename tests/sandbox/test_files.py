import gzip
import io
import subprocess
import tarfile

import pytest

from atropos_agent.sandbox import FileEntry

pytestmark = pytest.mark.integration


async def test_what_is_written_is_read_by_commands_and_by_us(any_sandbox):
    files = {"a/b/c.bin": bytes(range(256)), "/workspace/é.txt": b"", "x": b"1"}
    await any_sandbox.write_files(files, mode=0o640)
    assert [await any_sandbox.read_file(path) for path in files] == list(files.values())
    assert (await any_sandbox.exec("stat -c %a x; wc -c < a/b/c.bin")).stdout.split() == [b"640", b"256"]


async def test_writing_replaces_the_whole_file(any_sandbox):
    await any_sandbox.write_files({"f": b"a long first text"}, mode=0o755)
    await any_sandbox.write_files({"f": b"short"})
    assert await any_sandbox.read_file("f") == b"short"
    assert (await any_sandbox.snapshot())["f"].mode == 0o644


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../etc/passwd", "/tmp/x", "/workspace/../etc/passwd", "/proc/1/environ"]
)
async def test_paths_outside_the_workspace_are_refused(any_sandbox, path):
    with pytest.raises(PermissionError):
        await any_sandbox.read_file(path)
    with pytest.raises(PermissionError):
        await any_sandbox.write_files({path: b"x"})


@pytest.mark.parametrize(
    "link", ["/etc/passwd", "/etc", "/proc/self/fd/0", "../../../etc/passwd", "/dev/null"]
)
async def test_links_out_of_the_workspace_are_refused(any_sandbox, link):
    await any_sandbox.exec(f"ln -s {link} l; mkdir d; ln -s {link} d/l")
    for path in ("l", "d/l", "l/passwd"):
        with pytest.raises(OSError):  # noqa: PT011 which one depends on what the link names
            await any_sandbox.read_file(path)
        with pytest.raises(OSError):  # noqa: PT011
            await any_sandbox.write_files({path: b"overwritten"})
    assert b"root" in (await any_sandbox.exec("cat /etc/passwd")).stdout


async def test_links_within_the_workspace_are_followed(any_sandbox):
    await any_sandbox.exec("mkdir d; echo hi > d/f; ln -s d/f l; ln -s d e")
    assert await any_sandbox.read_file("l") == await any_sandbox.read_file("e/f") == b"hi\n"


async def test_reading_never_blocks_and_never_reads_what_is_no_file(any_sandbox):
    await any_sandbox.exec("mkfifo pipe; mkdir d; ln -s loop loop")
    for path, error in (
        ("pipe", OSError),
        ("d", IsADirectoryError),
        ("none", FileNotFoundError),
        ("loop", OSError),
    ):
        with pytest.raises(error):
            await any_sandbox.read_file(path)
    with pytest.raises(OSError):  # noqa: PT011
        await any_sandbox.write_files({"pipe": b"x"})
    with pytest.raises(IsADirectoryError):
        await any_sandbox.write_files({"d": b"x"})


async def test_a_file_above_the_limit_is_refused(any_sandbox):
    await any_sandbox.exec("truncate -s 100M sparse")
    with pytest.raises(OSError, match="104857600 bytes, more than max_bytes=1000"):
        await any_sandbox.read_file("sparse", max_bytes=1000)


async def test_a_snapshot_shows_every_path_and_follows_no_link(any_sandbox):
    await any_sandbox.exec(
        "mkdir -p a/b; echo hi > a/f; ln -s /etc l; mkfifo a/p; truncate -s 5M big; chmod 4750 a/f"
    )
    found = await any_sandbox.snapshot(max_file_bytes=1000)
    assert set(found) == {"a", "a/b", "a/f", "a/p", "l", "big"}
    assert found["a/f"] == FileEntry("file", 0o4750, 3, b"hi\n")
    assert (found["l"].kind, found["l"].target, found["a/p"].kind, found["a"].kind) == (
        "symlink",
        "/etc",
        "other",
        "dir",
    )
    assert (found["big"].size, found["big"].data) == (5 << 20, bytes(1000))


async def test_a_snapshot_tells_how_many_names_a_file_has(any_sandbox):
    await any_sandbox.exec("echo hi > a; ln a b; cp a c")
    found = await any_sandbox.snapshot()
    assert {path: entry.links for path, entry in found.items()} == {"a": 2, "b": 2, "c": 1}


async def test_a_snapshot_stays_within_its_total(any_sandbox):
    await any_sandbox.exec("for i in 1 2 3; do head -c 1000 /dev/zero > f$i; done")
    found = await any_sandbox.snapshot(max_total_bytes=1500)
    assert [len(entry.data) for entry in found.values()] == [1000, 500, 0]
    assert {entry.size for entry in found.values()} == {1000}


async def test_modes_do_not_hide_files_from_a_snapshot_and_stay_as_they_are(any_sandbox):
    await any_sandbox.exec("mkdir d; mkdir d/e; echo secret > d/f; chmod 000 d/f d/e d")
    found = await any_sandbox.snapshot()
    assert (found["d"].mode, found["d/f"].mode, found["d/f"].data) == (0, 0, b"secret\n")
    assert found["d/e"].mode == 0
    assert (await any_sandbox.exec("stat -c %a d")).stdout == b"0\n"


async def test_names_that_are_not_text_survive(any_sandbox):
    await any_sandbox.exec(r"printf x > $(printf 'a\377b'); printf y > $(printf 'new\nline')")
    found = await any_sandbox.snapshot()
    assert {name.encode("utf-8", "surrogateescape") for name in found} >= {b"a\xffb"}
    assert await any_sandbox.read_file("a\udcffb") == b"x"


async def test_very_deep_trees_do_not_break_a_snapshot(any_sandbox):
    await any_sandbox.exec(
        "for i in $(seq 60); do n=$(printf %0200d 0); mkdir $n && cd $n || break; done; echo x > f"
    )
    assert len(await any_sandbox.snapshot()) < 60
    await any_sandbox.exec("rm -rf -- 0*")


async def test_many_files_make_one_snapshot(sandbox):
    await sandbox.exec("mkdir m; cd m; i=0; while [ $i -lt 3000 ]; do echo $i > f$i; i=$((i+1)); done")
    found = await sandbox.snapshot()
    assert len(found) == 3001
    assert found["m/f2999"].data == b"2999\n"


async def test_a_directory_is_listed_without_content(any_sandbox):
    await any_sandbox.exec("mkdir d; echo hi > d/f; ln -s /etc d/l; mkdir d/e; echo deep > d/e/g")
    listed = await any_sandbox.list_files("d")
    assert {name: (entry.kind, entry.data, entry.target) for name, entry in listed.items()} == {
        "e": ("dir", b"", ""),
        "f": ("file", b"", ""),
        "l": ("symlink", b"", "/etc"),
    }
    assert set(await any_sandbox.list_files("/workspace")) == {"d"}
    with pytest.raises(PermissionError):
        await any_sandbox.list_files("/etc")
    with pytest.raises(FileNotFoundError):
        await any_sandbox.list_files("none")


async def test_a_restored_snapshot_is_the_workspace_again(any_sandbox):
    await any_sandbox.exec("""mkdir -p a/b c; printf '\\377\\0' > a/f; echo x > a/b/g; ln -s ../f a/b/l
        ln -s /none dangling
        chmod 4711 a/f; chmod 000 a/b; touch 'new\nline' $(printf 'n\\377')""")
    before = await any_sandbox.snapshot()
    await any_sandbox.exec(
        "chmod 700 a/b; rm -rf a; mkdir a; ln -s /etc a/b; mkdir dangling; echo more > extra"
    )
    await any_sandbox.restore(before)
    assert await any_sandbox.snapshot() == before
    assert (await any_sandbox.exec("stat -c %a a/f a/b; cat dangling 2>&1; ls")).stdout.startswith(
        b"4711\n0\ncat: "
    )


async def test_what_cannot_be_made_again_is_refused(any_sandbox):
    for entry in (FileEntry("file", 0o644, 10, b"cut"), FileEntry("other", 0o644, 0)):
        with pytest.raises(OSError, match="p: cannot be made again"):
            await any_sandbox.restore({"p": entry})


@pytest.mark.parametrize("path", ["../out", "/etc/x", "l/x"])
async def test_a_restore_stays_inside(any_sandbox, path):
    entries = {"l": FileEntry("symlink", 0o777, 0, target="/tmp"), path: FileEntry("file", 0o644, 1, b"x")}
    with pytest.raises(PermissionError):
        await any_sandbox.restore(entries)


async def test_an_archive_is_a_tar_that_can_be_extracted_elsewhere(any_sandbox):
    await any_sandbox.exec("mkdir -p d/e; echo hi > d/f; chmod 750 d/f; ln -s f d/l; ln d/f hard; mkfifo p")
    before = await any_sandbox.snapshot()
    data = await any_sandbox.archive()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {member.name for member in archive} == {"d", "d/e", "d/f", "d/l", "hard"}
    await any_sandbox.restore({})
    await any_sandbox.write_files({"kept": b"", "d/f": b"old"})
    await any_sandbox.extract(data)
    after = await any_sandbox.snapshot()
    assert set(after) == {"d", "d/e", "d/f", "d/l", "hard", "kept"}
    assert (after["d/f"].data, after["d/f"].mode, after["d/l"]) == (b"hi\n", 0o750, before["d/l"])


@pytest.fixture
def system_tar(tmp_path):
    """Two names of one file, as tar(1) packs them."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("hi")
    (tmp_path / "d/g").hardlink_to(tmp_path / "d/f")
    return subprocess.run(["tar", "-C", tmp_path, "-cf", "-", "./d"], capture_output=True, check=True).stdout


async def test_tars_that_others_make_are_understood(any_sandbox, system_tar):
    await any_sandbox.extract(system_tar)
    assert (await any_sandbox.exec("cat d/f d/g")).stdout == b"hihi"


def tar_of(name, kind=tarfile.REGTYPE, link=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        good = tarfile.TarInfo("good")
        archive.addfile(good)
        bad = tarfile.TarInfo(name)
        bad.type, bad.linkname = kind, link
        archive.addfile(bad)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tar_of("../x"), "outside of the workspace"),
        (tar_of("/etc/x"), "outside of the workspace"),
        (tar_of("a/../../x"), "outside of the workspace"),
        (tar_of("dev", tarfile.CHRTYPE), "a device or a pipe"),
        (tar_of("pipe", tarfile.FIFOTYPE), "a device or a pipe"),
        (tar_of("h", tarfile.LNKTYPE, "/etc/passwd"), "a hard link to no earlier file"),
        (b"no tar" * 200, "not an uncompressed tar"),
        (tar_of("x")[:600], "not an uncompressed tar"),
        (gzip.compress(tar_of("x")), "not an uncompressed tar"),
    ],
)
async def test_a_hostile_archive_is_refused_before_anything_is_written(any_sandbox, data, reason):
    with pytest.raises(RuntimeError, match=f"SandboxError: .*{reason}"):
        await any_sandbox.extract(data)
    assert await any_sandbox.snapshot() == {}


async def test_an_archive_above_its_limit_is_refused(any_sandbox):
    await any_sandbox.exec("truncate -s 5M big")
    with pytest.raises(OSError, match="max_total_bytes=1000"):
        await any_sandbox.archive(max_total_bytes=1000)


async def test_a_reset_sandbox_is_as_good_as_new(sandbox):
    shell = await sandbox.session()
    await shell.run(
        "setsid sleep 800 & echo x > /tmp/a; mkdir -p /dev/shm/b d/e; chmod 000 d/e d; echo y > f"
    )
    assert await sandbox.reset()
    result = await sandbox.exec("ls -A . /tmp /dev/shm; cat /proc/[0-9]*/comm")
    assert result.stdout.split() == [b".:", b"/dev/shm:", b"/tmp:", *result.stdout.split()[3:]]
    assert b"sleep" not in result.stdout
    assert await sandbox.snapshot() == {}


async def test_shared_memory_does_not_outlive_a_reset(sandbox):
    make = "/usr/bin/python3 -c 'import ctypes; print(ctypes.CDLL(None).shmget(5, 4096, 0o1600))'"
    made = await sandbox.exec(make)
    assert (int(made.stdout) >= 0) is (sandbox.isolation.limits["memory"] != "watcher")
    assert await sandbox.reset()
    assert (await sandbox.exec(make.replace("0o1600", "0"))).stdout == b"-1\n"


async def test_a_reset_gives_modes_and_session_places_back(sandbox):
    before = (await sandbox.exec("stat -c %a /tmp /workspace")).stdout
    for _ in range(16):
        await sandbox.session()
    for _ in range(64):
        await sandbox.start("true")
    await sandbox.exec("chmod 0 /tmp; chmod 555 /workspace")
    assert await sandbox.reset()
    assert (await sandbox.exec("touch /tmp/a b && stat -c %a /tmp /workspace")).stdout == before
    assert (await (await sandbox.session()).run("echo on")).stdout == b"on\n"
    assert (await (await sandbox.start("sleep 9")).poll()).running


async def test_message_queues_cannot_be_left_behind(sandbox):
    script = "import ctypes; print(ctypes.CDLL(None).mq_open(b'/left', 0o102, 0o600, None))"
    assert (await sandbox.exec(f'/usr/bin/python3 -c "{script}"')).stdout == b"-1\n"
