import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from atropos_agent.errors import SandboxError, SandboxLost
from atropos_agent.sandbox import ExecStatus, Sandbox, SandboxPool
from tests.sandbox.conftest import ISOLATED as KINDS
from tests.sandbox.conftest import NATIVE, Driver
from tests.sandbox.traces import (
    command_line,
    descendants,
    is_pid_1,
    is_running,
    parent_of,
    supervisor_of,
    survivors,
    traces,
)

pytestmark = pytest.mark.integration
BACKENDS = ["native", "bubblewrap", "local"]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_closed_pool_leaves_nothing(backend):
    await asyncio.to_thread(int)  # the executor's own descriptors come first
    before = traces()
    async with SandboxPool(backend, size=3) as pool:
        async with pool.acquire() as sandbox, pool.acquire() as other:
            await sandbox.exec("setsid sleep 2 & echo x > f")
            await other.exec("sleep 100", timeout_s=0.1)
        async with pool.acquire() as third:
            assert isinstance(third, Sandbox)
            assert await third.snapshot() == {}
    after = traces()
    own_session_escapes = backend == "local"
    if own_session_escapes:
        before, after = before[1:], after[1:]
    assert after == before


@pytest.mark.parametrize("backend", BACKENDS)
async def test_more_rollouts_than_sandboxes_all_finish_and_none_is_starved(backend):
    order = []

    async def rollout(pool, number):
        async with pool.acquire() as sandbox:
            order.append(number)
            result = await sandbox.exec(f"ls -A | wc -l; echo {number} > mine; cat mine")
            assert result.stdout.split() == [b"0", str(number).encode()]

    async with SandboxPool(backend, size=4) as pool, asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(rollout(pool, number))
    assert sorted(order) == list(range(40))
    assert max(abs(place - number) for place, number in enumerate(order)) < 20


async def test_at_most_size_are_in_use_at_once():
    in_use = highest = 0

    async def rollout(pool):
        nonlocal in_use, highest
        async with pool.acquire() as sandbox:
            in_use += 1
            highest = max(highest, in_use)
            await sandbox.exec("sleep 0.1")
            in_use -= 1

    async with SandboxPool("native", size=3) as pool:
        await asyncio.gather(*(rollout(pool) for _ in range(12)))
    assert highest == 3


async def test_sixteen_sandboxes_work_at_once_and_keep_their_results_apart():
    async def work(pool, number):
        async with pool.acquire() as sandbox:
            for turn in range(20):
                result = await sandbox.exec(f"echo {number}.{turn} | tee -a log; wc -l < log")
                assert result.stdout == f"{number}.{turn}\n{turn + 1}\n".encode()

    async with SandboxPool("native", size=16) as pool:
        await asyncio.gather(*(work(pool, number) for number in range(16)))


async def test_commands_of_one_sandbox_take_turns():
    async with SandboxPool("native", size=1) as pool, pool.acquire() as sandbox:
        results = await asyncio.gather(*(sandbox.exec(f"sleep 0.01; echo {n}") for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(8)]


async def test_a_lost_sandbox_costs_only_its_rollout():
    async with SandboxPool("native", size=2) as pool:
        async with pool.acquire() as lost, pool.acquire() as other:
            running = asyncio.create_task(lost.exec("sleep 987.5"))
            await asyncio.sleep(0.2)
            os.kill(supervisor_of("987.5"), signal.SIGKILL)
            assert (await running).status is ExecStatus.SANDBOX_LOST
            assert (await other.exec("echo fine")).stdout == b"fine\n"
        async with pool.acquire() as replacement:
            assert (await replacement.exec("echo new")).stdout == b"new\n"


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
async def test_a_supervisor_that_hangs_is_discarded_by_the_host(backend):
    async with SandboxPool(backend, size=1) as pool:
        async with pool.acquire() as sandbox:
            running = asyncio.create_task(sandbox.exec("sleep 987.25", timeout_s=0.5))
            await asyncio.sleep(0.2)
            os.kill(supervisor_of("987.25"), signal.SIGSTOP)
            assert (await running).status is ExecStatus.SANDBOX_LOST
        async with pool.acquire() as fresh:
            assert (await fresh.exec("echo new")).stdout == b"new\n"


async def test_cancelling_a_command_frees_the_place():
    async with SandboxPool("native", size=1) as pool:

        async def rollout():
            async with pool.acquire() as sandbox:
                await sandbox.exec("sleep 100")

        task = asyncio.create_task(rollout())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10), pool.acquire() as sandbox:
            assert (await sandbox.exec("echo next")).stdout == b"next\n"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_closing_the_pool_ends_what_is_in_use(backend):
    pool = await SandboxPool(backend, size=1).__aenter__()
    async with pool.acquire() as sandbox:
        running = asyncio.create_task(sandbox.exec("sleep 100"))
        await asyncio.sleep(0.1)
        await pool.close()
        assert (await running).status in (ExecStatus.SANDBOX_LOST, ExecStatus.KILLED)
        with pytest.raises(SandboxLost):
            await sandbox.read_file("f")


async def test_a_request_too_large_is_refused_and_loses_nothing():
    async with SandboxPool("native", size=1) as pool, pool.acquire() as sandbox:
        with pytest.raises(SandboxError, match="cannot be sent"):
            await sandbox.exec("true", stdin=bytes((256 << 20) + 1))
        assert (await sandbox.exec("echo fine")).stdout == b"fine\n"


def test_local_directories_are_removed_whatever_their_modes_and_after_a_killed_trainer(package_root):
    kind = KINDS[-1].replace("bubblewrap", "local")
    killed = Driver(kind, package_root)
    killed.call("a", "open")
    killed.call("a", "exec", "mkdir -p d/e; chmod 000 d")
    killed.kill()
    assert list(Path("/tmp").glob(f"atropos-local-{killed.pid}-*")) != []
    second = Driver(kind, package_root)
    second.call("a", "open")
    second.call("a", "exec", "mkdir -p d/e; chmod 000 d/e d")
    second.close()
    for driver in (killed, second):
        assert list(Path("/tmp").glob(f"atropos-local-{driver.pid}-*")) == []


def helpers_of(pid):
    """What a pool runs beside its slots, as far as `pid` is its parent."""
    return [
        child
        for child in descendants()
        if parent_of(child) == pid and b"reaper" in command_line(child) and not is_pid_1(child)
    ]


async def use_all(pool):
    for _ in range(6):
        async with asyncio.timeout(5), pool.acquire():
            pass


async def test_a_close_that_is_cancelled_ends_everything_first():
    pool = await SandboxPool("native", size=2).__aenter__()
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert helpers_of(os.getpid()) == []


async def test_a_dead_reaper_is_an_error_and_not_a_hang():
    async with SandboxPool("native", size=2) as pool:
        async with pool.acquire() as sandbox:
            (reaper,) = helpers_of(os.getpid())
            os.kill(reaper, signal.SIGKILL)
            assert (await sandbox.exec("sleep 60")).status is ExecStatus.SANDBOX_LOST
        with pytest.raises(SandboxError, match="helper process is gone"):
            await use_all(pool)


async def test_a_dead_zygote_costs_no_sandbox_and_is_an_error_where_another_is_wanted():
    async with SandboxPool("native", size=2) as pool:
        async with pool.acquire() as sandbox:
            (reaper,) = helpers_of(os.getpid())
            (zygote,) = helpers_of(reaper)
            os.kill(zygote, signal.SIGKILL)
            assert (await sandbox.exec("echo on")).stdout == b"on\n"
        with pytest.raises(SandboxError, match="zygote: "):
            await use_all(pool)


HEIR = """
import asyncio, ctypes, pathlib
from atropos_agent.sandbox import SandboxPool

PR_SET_CHILD_SUBREAPER = 36

async def main():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for _ in range(2):
        async with SandboxPool("native", size=1) as pool, pool.acquire() as sandbox:
            await sandbox.exec("true")

asyncio.run(main())
print(pathlib.Path("/proc/thread-self/children").read_text().split())
"""


def test_a_trainer_that_inherits_orphans_inherits_none():
    ran = subprocess.run([sys.executable, "-c", HEIR], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n", ran


def test_event_loops_one_after_another_and_in_other_threads():
    async def use():
        async with SandboxPool("native", size=1) as pool, pool.acquire() as sandbox:
            return (await sandbox.exec("echo hi")).stdout

    outputs = [asyncio.run(use()), asyncio.run(use())]
    thread = threading.Thread(target=lambda: outputs.append(asyncio.run(use())))
    thread.start()
    thread.join(30)
    assert outputs == [b"hi\n"] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_sigkill_of_the_trainer_leaves_nothing(package_root, kind):
    driver = Driver(kind, package_root)
    for name in ("a", "b"):
        driver.call(name, "open")
    driver.call("a", "exec", "true")
    sleeping = "setsid sleep 1000 & sleep 1000"
    running = asyncio.create_task(asyncio.to_thread(driver.call, "b", "exec", sleeping))
    while sum(command_line(pid).startswith(b"sleep") for pid in descendants(driver.pid)) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    family = descendants(driver.pid)
    driver.kill()
    assert await asyncio.to_thread(survivors, family) == set()
    with pytest.raises(ValueError, match="Expecting value"):
        await running


@pytest.mark.parametrize("kind", NATIVE)
async def test_a_trainer_that_ends_without_closing_leaves_nothing(package_root, kind):
    driver = Driver(kind, package_root)
    driver.call("a", "open")
    driver.call("a", "exec", "true")
    family = descendants(driver.pid)
    driver.close()
    assert [pid for pid in family if is_running(pid)] == []


@pytest.mark.parametrize("moment_s", [0.03, 0.11, 0.24])
@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
def test_a_trainer_killed_while_it_makes_sandboxes_leaves_nothing(package_root, backend, moment_s):
    script = package_root / "tests/sandbox/churn.py"
    trainer = subprocess.Popen([sys.executable, script, package_root, backend], stdout=subprocess.PIPE)
    with trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"up\n"
        time.sleep(moment_s)
        family = descendants(trainer.pid)
        trainer.kill()
    assert family
    assert survivors(family, within_s=2) == set()


@pytest.mark.parametrize("kind", NATIVE)
async def test_a_stopped_sandbox_does_not_outlive_a_killed_trainer(package_root, kind):
    driver = Driver(kind, package_root)
    driver.call("a", "open")
    running = asyncio.create_task(asyncio.to_thread(driver.call, "a", "exec", "sleep 987.75"))
    await asyncio.sleep(0.3)
    os.kill(supervisor_of("987.75"), signal.SIGSTOP)
    family = descendants(driver.pid)
    driver.kill()
    assert await asyncio.to_thread(survivors, family) == set()
    with pytest.raises(ValueError, match="Expecting value"):
        await running
