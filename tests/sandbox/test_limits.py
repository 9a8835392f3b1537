import subprocess
import sys
from pathlib import Path

import pytest

from atropos_agent.sandbox import ExecStatus
from tests.sandbox.conftest import ISOLATED, LOCAL, USERS, DrivenSandbox, Driver, as_ordinary_user

pytestmark = pytest.mark.integration

SMALL = {
    "workspace_bytes": 8 << 20,
    "workspace_inodes": 200,
    "memory_bytes": 96 << 20,
    "processes": 40,
    "file_bytes": 4 << 20,
    "output_kept_bytes": 1000,
    "output_limit_bytes": 100_000,
}
HOG = "/usr/bin/python3 -c 'import time; x = bytearray(300 << 20); print(len(x), flush=True); time.sleep(5)'"


@pytest.fixture(scope="module")
def small_drivers(package_root):
    started = {}

    def get(kind):
        if kind not in started:
            started[kind] = Driver(kind, package_root, spec=SMALL)
        return started[kind]

    yield get
    for driver in started.values():
        driver.close()


@pytest.fixture(params=ISOLATED)
async def small(request, small_drivers):
    sandbox = DrivenSandbox(small_drivers(request.param))
    yield sandbox
    await sandbox.close()


async def test_memory_is_limited_and_the_sandbox_lives_on(small):
    result = await small.exec(HOG, timeout_s=20)
    assert result.status is ExecStatus.OOM, (small.isolation, result)
    assert (await small.exec("echo alive")).stdout == b"alive\n"


@pytest.fixture(scope="module")
def our_oom_score():
    return Path("/proc/self/oom_score_adj").read_text()


async def test_the_kernel_chooses_what_was_started_here_before_the_supervisor(small, our_oom_score):
    # A program may look before the supervisor, having started it, is again as it was.
    restored = f"until [ $(cat /proc/1/oom_score_adj) = {our_oom_score.strip()} ]; do sleep 0.01; done"
    session = await small.session()
    command = f"cat /proc/self/oom_score_adj; {restored}"
    for result in (await small.exec(command), await session.run(command)):
        assert (result.status, result.stdout) == (ExecStatus.OK, b"1000\n")


async def test_memory_below_the_limit_is_given(small):
    result = await small.exec(HOG.replace("300", "30").replace("sleep(5)", "sleep(0.1)"))
    assert result.status is ExecStatus.OK


async def test_memory_that_processes_share_is_counted_once(small):
    forks = "import os, time; x = bytearray(40 << 20); [os.fork() for _ in range(3)]; time.sleep(0.4)"
    result = await small.exec(f"/usr/bin/python3 -c '{forks}'")
    assert result.status is ExecStatus.OK


async def test_a_fork_bomb_is_bounded_and_ends(small):
    result = await small.exec("b() { b | b & b; }; b; sleep 5", timeout_s=0.5)
    assert result.status in (ExecStatus.TIMEOUT, ExecStatus.NONZERO, ExecStatus.OUTPUT_LIMIT)
    visible = await small.exec("cd /proc; echo [0-9]*")
    assert len(visible.stdout.split()) == 2


async def test_processes_are_limited_per_sandbox(small):
    count = "n=0; while [ $n -lt 200 ]; do sleep 5 & n=$((n+1)); done; echo all"
    other = DrivenSandbox(small.driver)
    for one in (small, other):
        result = await one.exec(count, timeout_s=10)
        assert b"all" not in result.stdout
        assert b"Cannot fork" in result.stderr
    await other.close()


async def test_workspace_bytes_are_limited(small):
    script = "for i in 1 2 3 4; do head -c 3000000 /dev/zero > f$i || echo full; done; du -sk . | cut -f1"
    result = await small.exec(script)
    assert b"full" in result.stdout
    assert int(result.stdout.split()[-1]) <= SMALL["workspace_bytes"] // 1024
    assert (await small.exec("rm -f f*; echo ok > g; cat g")).stdout == b"ok\n"


async def test_one_file_is_limited(small):
    result = await small.exec("head -c 6000000 /dev/zero > f; wc -c < f")
    assert int(result.stdout) <= SMALL["file_bytes"]


async def test_workspace_inodes_are_limited(small):
    result = await small.exec("i=0; while : > f$i; do i=$((i+1)); done 2>/dev/null; sleep 0.3", timeout_s=10)
    left = await small.exec("ls | wc -l")
    enforced_at_once = small.isolation.limits["inodes"] == "tmpfs"
    assert (
        int(left.stdout) <= SMALL["workspace_inodes"]
        if enforced_at_once
        else result.status is ExecStatus.DISK_FULL
    )


async def test_a_full_workspace_does_not_stop_commands_or_reads(small):
    await small.exec(
        "head -c 3000000 /dev/zero > a; head -c 9000000 /dev/zero > b; head -c 9000000 /dev/zero > c"
    )
    long_script = "wc -c < a #" + "x" * 130_000
    assert (await small.exec(long_script)).stdout == b"3000000\n"
    assert len(await small.read_file("a", max_bytes=4 << 20)) == 3_000_000
    with pytest.raises(OSError, match=r"late: .*space"):
        await small.write_files({"late": bytes(3_000_000)})


async def test_a_snapshot_of_a_full_workspace_fits_into_the_memory_limit(small):
    await small.exec("for i in 1 2; do head -c 4000000 /dev/urandom > f$i; done")
    found = await small.snapshot(max_file_bytes=8 << 20)
    assert sum(len(entry.data) for entry in found.values()) == 8_000_000


async def test_the_output_budget_holds_for_each_stream(small):
    result = await small.exec("seq 1 9000; seq 1 9000 >&2")
    assert len(result.stdout) == len(result.stderr) == 1000
    assert result.stdout_bytes == result.stderr_bytes == 43_893


async def test_each_limit_names_its_mechanism(small):
    limits = small.isolation.limits
    assert not small.isolation.unsafe
    assert limits["memory"] in ("cgroup-v2", "cgroup-v1", "watcher")
    assert set(limits) == {
        "memory",
        "processes",
        "workspace",
        "inodes",
        "output",
        "wall",
        "cpu",
        "cpus",
        "check",
        "network",
        "syscalls",
        "identity",
    }


@pytest.mark.parametrize("kind", ISOLATED)
async def test_cpu_time_is_limited_for_one_process_and_for_many(package_root, kind):
    driver = Driver(kind, package_root, spec={"cpu_s": 1.0})
    sandbox = DrivenSandbox(driver)
    alone = await sandbox.exec("echo early; exec sh -c 'while :; do :; done'", timeout_s=30)
    many = await sandbox.exec("for i in 1 2 3 4; do sh -c 'while :; do :; done' & done; wait", timeout_s=30)
    assert alone.stdout == b"early\n"
    assert {alone.status, many.status} <= {ExecStatus.TIMEOUT, ExecStatus.KILLED}
    assert max(alone.duration_s, many.duration_s) < 20
    assert (await sandbox.exec("sleep 1.2; echo rested")).stdout == b"rested\n"
    assert (await sandbox.exec("ulimit -t unlimited; ulimit -t")).stdout == b"1\n"
    await sandbox.close()
    driver.close()


async def test_the_cpu_time_of_a_command_is_told(small):
    busy = await small.exec("/usr/bin/python3 -c 'for _ in range(3_000_000): pass'")
    idle = await small.exec("sleep 0.1")
    assert busy.cpu_s is not None
    assert idle.cpu_s is not None
    assert idle.cpu_s < busy.cpu_s


async def test_a_failure_that_left_no_space_says_so(small):
    full = await small.exec("for i in 1 2 3; do head -c 3500000 /dev/zero > f$i || exit 9; done")
    assert (full.status, full.exit_code) == (ExecStatus.DISK_FULL, 9)
    assert (await small.exec("false")).status is ExecStatus.DISK_FULL
    assert (await small.exec("true")).status is ExecStatus.OK
    assert (await small.exec("rm f1; false")).status is ExecStatus.NONZERO


# What a sandbox of the small spec stops, bounded: without one it all succeeds.
BEYOND = {
    "processes": ("n=0; while [ $n -lt 60 ]; do sleep 5 & n=$((n+1)); done; echo all", b"all"),
    "bytes": (
        "head -c 12000000 /dev/zero > a && head -c 3000000 /dev/zero > b && echo all; rm -f a b",
        b"all",
    ),
    "bytes of many files": (
        "for i in 1 2 3 4; do head -c 3000000 /dev/zero > f$i; done && echo all; rm f*",
        b"all",
    ),
    "one file": ("head -c 6000000 /dev/zero > f; wc -c < f; rm f", b"6000000"),
    "inodes": (
        "i=0; while [ $i -lt 400 ]; do : > f$i || exit; i=$((i+1)); done; sleep 0.3; echo all",
        b"all",
    ),
    "memory": (HOG.replace("sleep(5)", "sleep(0.5)"), b"314572800"),
    "cpu": ("/usr/bin/python3 -c 'import time\nwhile time.process_time() < 2: pass' && echo all", b"all"),
}


@pytest.mark.parametrize("what", BEYOND)
@pytest.mark.parametrize("kind", [*ISOLATED, *LOCAL])
async def test_what_a_sandbox_stops_succeeds_without_one(package_root, kind, what):
    script, mark = BEYOND[what]
    driver = Driver(kind, package_root, spec={**SMALL, "cpu_s": 1.0})
    sandbox = DrivenSandbox(driver)
    result = await sandbox.exec(script, timeout_s=20)
    assert (mark in result.stdout.split()) is (kind in LOCAL), result
    assert (await sandbox.exec("rm -f f*; echo on", timeout_s=20)).stdout == b"on\n"
    await sandbox.close()
    driver.close()


@pytest.mark.parametrize("kind", LOCAL)
async def test_without_a_sandbox_a_daemon_outlives_its_command(small_drivers, kind):
    sandbox = DrivenSandbox(small_drivers(kind))
    pid = (await sandbox.exec("setsid sleep 3 > /dev/null 2>&1 & echo $!")).stdout.strip().decode()
    assert (await sandbox.exec(f"kill -0 {pid} && kill -9 {pid}")).exit_code == 0
    await sandbox.close()


@pytest.mark.parametrize("user", USERS)
def test_a_hundred_slots_have_a_hundred_limits_of_processes(package_root, user):
    command = [sys.executable] if user == "root" else as_ordinary_user()
    done = subprocess.run(
        [*command, package_root / "tests/sandbox/hundred.py", package_root],
        capture_output=True,
        cwd="/",
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"fine\n"), done.stderr.decode()


HIDDEN = """
import ctypes, threading, time
def hog():
    time.sleep(0.2)
    held = bytearray(300 << 20)
    print("held", flush=True)
    time.sleep(5)
threading.Thread(target=hog).start()
ctypes.CDLL(None).syscall(60, 0)
"""


@pytest.mark.parametrize("kind", [kind for kind in ISOLATED if kind.endswith("user")])
async def test_memory_of_a_process_whose_first_thread_has_ended_is_seen(small_drivers, kind):
    sandbox = DrivenSandbox(small_drivers(kind))
    result = await sandbox.exec(f"/usr/bin/python3 -c '{HIDDEN}' & sleep 3", timeout_s=20)
    job = await sandbox.start("sleep 9")
    beside = await sandbox.exec(f"/usr/bin/python3 -c '{HIDDEN.replace('300', '10')}' & sleep 1")
    assert beside.stdout == b"held\n"
    assert b"ctypes" not in (await sandbox.exec("cat /proc/[0-9]*/task/*/cmdline")).stdout
    await job.kill()
    assert result.status is ExecStatus.OOM, result
    await sandbox.close()
