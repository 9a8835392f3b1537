"""What a pool hands out, in which order, and what it counts; over real sandboxes."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from atropos_agent.errors import SandboxBusy
from atropos_agent.sandbox import ExecStatus, PoolStats, SandboxPool, SandboxSpec
from tests.sandbox.traces import descendants, is_pid_1, parent_of, supervisor_of

pytestmark = pytest.mark.integration
BACKENDS = ["native", "bubblewrap", "local"]


async def test_waiting_too_long_says_who_is_in_the_way():
    async with SandboxPool("native", size=2) as pool, pool.acquire("first#0"), pool.acquire("second#0"):
        waiting = asyncio.create_task(anything(pool))
        await asyncio.sleep(0)
        told = (
            r"no sandbox within 0\.2 s: 1 more wait, 2 of 2 are in use, the oldest for 0\.\d s by first#0; "
        )
        with pytest.raises(SandboxBusy, match=told):
            async with pool.acquire("third#0", timeout_s=0.2):
                pass
        assert (pool.stats.waiting, pool.stats.in_use) == (1, 2)
        waiting.cancel()


async def anything(pool):
    async with pool.acquire():
        pass


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_sandbox_of_its_own_spec_is_made_for_one_use(backend):
    small = SandboxSpec(output_kept_bytes=10)
    async with SandboxPool(backend, size=2, max_uses=5) as pool:
        async with pool.acquire(spec=small) as sandbox:
            result = await sandbox.exec("echo 12345678901234567890")
            assert (len(result.stdout), result.stdout_bytes) == (10, 21)
        async with pool.acquire() as sandbox:
            assert not (await sandbox.exec("echo 12345678901234567890")).truncated


async def rested(pool):
    """The counts once the refill is done."""
    for _ in range(500):
        stats = pool.stats
        if stats.idle >= 2 and stats.created - stats.destroyed == stats.idle + stats.in_use:
            return stats
        await asyncio.sleep(0.01)
    raise AssertionError(pool.stats)


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
async def test_sandboxes_are_got_ready_from_the_start_and_the_counts_agree(backend):
    async with SandboxPool(backend, size=4, min_idle=2) as pool:
        assert await rested(pool) == PoolStats(idle=2, created=2)
        async with pool.acquire(), pool.acquire(), pool.acquire():
            assert (await rested(pool)).in_use == 3
        stats = await rested(pool)
        assert (stats.waiting, stats.in_use, stats.idle, stats.destroyed, stats.lost) == (0, 0, 2, 3, 0)
    assert pool.stats.created == pool.stats.destroyed


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
async def test_a_sandbox_is_used_again_as_often_as_it_may_and_empty_each_time(backend):
    async with SandboxPool(backend, size=1, min_idle=0, max_uses=3) as pool:
        for _ in range(7):
            async with pool.acquire() as sandbox:
                result = await sandbox.exec(
                    "ls -A . /tmp /dev/shm | grep -c mine; setsid sleep 50 & touch mine /tmp/mine"
                )
                assert result.stdout == b"0\n"
        assert (pool.stats.created, pool.stats.destroyed, pool.stats.lost) == (3, 2, 0)


async def test_two_hundred_rollouts_on_four_sandboxes_lose_only_those_whose_sandbox_is_killed():
    """Each rollout runs one command; the sandbox of every tenth is killed under it."""

    async def rollout(pool, number):
        async with pool.acquire(f"r{number}") as sandbox:
            doomed = number % 10 == 0
            running = asyncio.create_task(
                sandbox.exec(f"sleep {900 + number / 1000}" if doomed else f"echo {number}")
            )
            if doomed:
                await asyncio.sleep(0.1)
                os.kill(supervisor_of(f"{900 + number / 1000}"), signal.SIGKILL)
            result = await running
            return result.status if doomed else result.stdout

    async with SandboxPool("native", size=4) as pool:
        results = await asyncio.gather(*(rollout(pool, number) for number in range(200)))
        stats = await rested(pool)
    for number, result in enumerate(results):
        assert result == (ExecStatus.SANDBOX_LOST if number % 10 == 0 else f"{number}\n".encode())
    assert (stats.lost, stats.in_use, stats.waiting) == (20, 0, 0)


MANY = """
import asyncio, contextlib, resource
from atropos_agent.sandbox import SandboxPool

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 70))
    async with SandboxPool("native", size=100) as pool, contextlib.AsyncExitStack() as held:
        while True:
            await held.enter_async_context(pool.acquire())

asyncio.run(main())
"""


async def test_who_runs_out_of_descriptors_is_told_what_to_do():
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", MANY], capture_output=True, text=True, timeout=60, check=False
    )
    said = ran.stderr.splitlines()[-1]
    assert "SandboxError: a sandbox cannot be launched: [Errno 24] Too many open files" in said
    assert said.endswith(
        "; 60 are allowed and each sandbox takes two: raise that (ulimit -n) or ask for fewer"
    )


async def test_an_idle_sandbox_that_died_is_replaced_unnoticed():
    async with SandboxPool("native", size=2, min_idle=2) as pool:
        await rested(pool)
        for pid in descendants():
            if is_pid_1(pid) and parent_of(parent_of(pid)) == os.getpid():
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        for _ in range(3):
            async with pool.acquire() as sandbox:
                assert (await sandbox.exec("echo fine")).stdout == b"fine\n"
        assert (await rested(pool)).lost == 2
