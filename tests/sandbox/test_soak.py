"""Ten thousand commands, a tenth of them hostile: every result is right and nothing is left over."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
from pathlib import Path

import pytest

from atropos_agent.sandbox import ExecStatus, SandboxPool, SandboxSpec
from tests.sandbox.traces import descendants, supervisor_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

COMMANDS, SLOTS, IN_FLIGHT = 10_000, 64, 16
SPEC = SandboxSpec(
    workspace_bytes=8 << 20,
    memory_bytes=256 << 20,
    processes=48,
    output_limit_bytes=1 << 20,
    output_kept_bytes=1000,
)
GROWTH_BYTES = 16 << 20
SLOT_GROWTH_BYTES = 1 << 20


def benign(number):
    """(command, what must come of it)"""
    script = f"echo {number}; echo e{number} >&2; exit {number % 7}"
    status = ExecStatus.NONZERO if number % 7 else ExecStatus.OK
    return script, 10, (status, number % 7, b"%d\n" % number, b"e%d\n" % number)


def exactly(status, code, stdout, stderr=b""):
    return status, code, stdout, stderr


HOSTILE = {
    "daemon": (
        "setsid sh -c 'trap \"\" TERM HUP; sleep 900' & echo on",
        10,
        exactly(ExecStatus.OK, 0, b"on\n"),
    ),
    "binary": (r"printf '\377\000\376\n'", 10, exactly(ExecStatus.OK, 0, b"\xff\0\xfe\n")),
    "stops itself": ("kill -STOP $$; echo no", 0.1, exactly(ExecStatus.TIMEOUT, None, b"")),
    "stops all others": ("sleep 900 & kill -STOP -1 1; echo on", 10, exactly(ExecStatus.OK, 0, b"on\n")),
    "kills all others": ("sleep 900 & kill -9 1 -1; echo on", 10, exactly(ExecStatus.OK, 0, b"on\n")),
    "closes all": ("exec >&- 2>&- <&-; sleep 900", 0.1, exactly(ExecStatus.TIMEOUT, None, b"")),
    "fills the disk": (
        "head -c 20000000 /dev/zero > big 2>/dev/null; s=$?; rm -f big; exit $s",
        10,
        exactly(ExecStatus.NONZERO, 1, b""),
    ),
    "deaf": (
        "trap '' TERM INT HUP; echo on; while :; do :; done",
        0.1,
        exactly(ExecStatus.TIMEOUT, None, b"on\n"),
    ),
    "output": ("yes", 10, None),
    "binary flood": ("cat /dev/urandom", 10, None),
    "fork bomb": ("b() { b | b & b; }; b", 0.2, None),
}


def check(name, result, expected):
    if expected is not None:
        assert (result.status, result.exit_code, result.stdout, result.stderr) == expected, name
    elif name == "fork bomb":
        assert result.status in (ExecStatus.TIMEOUT, ExecStatus.NONZERO, ExecStatus.OK), result
    else:
        assert result.status is ExecStatus.OUTPUT_LIMIT, result
        assert len(result.stdout) == SPEC.output_kept_bytes


def resident(pid):
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def holdings():
    """Our memory, that of each process of ours, and our descriptors."""
    family = descendants()
    return (
        resident(os.getpid()),
        {pid: resident(pid) for pid in family},
        len(list(Path("/proc/self/fd").iterdir())),
    )


async def test_ten_thousand_commands_over_64_slots_leak_nothing():
    rng = random.Random(7)
    names = list(HOSTILE)
    work = [
        (name := rng.choice(names), *HOSTILE[name]) if number % 10 == 0 else ("benign", *benign(number))
        for number in range(COMMANDS)
    ]
    numbers = itertools.count()
    free = asyncio.Queue()

    async def worker():
        for name, command, timeout_s, expected in iter(
            lambda: work[n] if (n := next(numbers)) < limit else None, None
        ):
            sandbox = await free.get()
            check(name, await sandbox.exec(command, timeout_s=timeout_s), expected)
            free.put_nowait(sandbox)

    async with SandboxPool("native", SPEC, size=SLOTS) as pool, contextlib.AsyncExitStack() as stack:
        for _ in range(SLOTS):
            free.put_nowait(await stack.enter_async_context(pool.acquire()))
        limit = 1_500
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        own, slots, descriptors = holdings()
        numbers, limit = itertools.count(limit), COMMANDS
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        own_after, slots_after, descriptors_after = holdings()
    assert set(slots_after) == set(slots)
    assert descriptors_after == descriptors
    assert own_after - own < GROWTH_BYTES
    assert max(slots_after[pid] - slots[pid] for pid in slots) < SLOT_GROWTH_BYTES


async def test_slots_killed_at_random_cost_only_the_rollouts_that_held_them():
    rng = random.Random(8)
    doomed = {number for number in range(200) if rng.random() < 0.2}
    lost, finished = set(), set()

    async def rollout(pool, number):
        async with pool.acquire() as sandbox:
            for turn in range(4):
                if turn == 2 and number in doomed:
                    running = asyncio.create_task(sandbox.exec(f"sleep 9{number:03}.5"))
                    await asyncio.sleep(0.1)
                    os.kill(supervisor_of(f"9{number:03}.5"), signal.SIGKILL)
                    result = await running
                else:
                    result = await sandbox.exec(f"echo {number}.{turn} | tee -a log; wc -l < log")
                if result.status is ExecStatus.SANDBOX_LOST:
                    lost.add(number)
                    return
                assert result.stdout == f"{number}.{turn}\n{turn + 1}\n".encode()
            finished.add(number)

    async with SandboxPool("native", SPEC, size=4) as pool, asyncio.timeout(120):
        await asyncio.gather(*(rollout(pool, number) for number in range(200)))
    assert lost == doomed
    assert len(doomed) > 20
    assert finished == set(range(200)) - doomed
