"""What a command in the sandbox costs, beside the plain asyncio `sh -c` of the same run.

    python scripts/bench_sandbox.py [--backend native] [--rounds 200] [--markdown]

Rounds are interleaved, so that both sides see the same load: trust the ratios, not the milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from atropos_agent.sandbox import Sandbox, SandboxPool, SandboxSpec
from atropos_agent.sandbox.bubblewrap import BubblewrapLauncher
from atropos_agent.sandbox.inside import rootfs
from atropos_agent.sandbox.native import NativeLauncher
from atropos_agent.sandbox.protocol import WORKSPACE

IN_FLIGHT = 16
COMMANDS_PER_BLOCK = 160
IDLE_SLOTS = 100
FEWEST_ROUNDS = 100
TIMEOUT_S = 0.1
HEADINGS = ("what", "sandbox", "plain sh -c", "ratio", "aim")
Act = Callable[[str], Awaitable[object]]
LAUNCHERS: dict[str, type[NativeLauncher] | type[BubblewrapLauncher]] = {
    "native": NativeLauncher,
    "bubblewrap": BubblewrapLauncher,
}


@dataclass(frozen=True)
class Row:
    """One line of the report; the ratio is against the floor, the aim is for the ratio or the value."""

    name: str
    ours: str
    plain: str
    ratio: str
    aim: str


async def plain(command: str) -> None:
    """The floor: a fresh shell, its output read, nothing contained."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.communicate()


async def seconds(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def milliseconds(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples) * 1e3:.2f} ms"


def ratio(ours: Sequence[float], floor: Sequence[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(floor):.2f}x"


async def one_command(pool: SandboxPool, command: str, rounds: int) -> Row:
    ours: list[float] = []
    floor: list[float] = []
    async with pool.acquire() as sandbox:
        for _ in range(rounds):
            ours.append(await seconds(sandbox.exec(command)))
            floor.append(await seconds(plain(command)))
    name = f"warm exec p50, `{command}`"
    return Row(name, milliseconds(ours), milliseconds(floor), ratio(ours, floor), "<= 1.0x, gate 1.5x")


async def block(acts: Sequence[Act]) -> float:
    """Commands per second with every act busy."""
    turns = itertools.count()

    async def work(act: Act) -> None:
        while next(turns) < COMMANDS_PER_BLOCK:
            await act("true")

    return COMMANDS_PER_BLOCK / await seconds(asyncio.gather(*map(work, acts)))


async def throughput(pool: SandboxPool, rounds: int) -> Row:
    ours: list[float] = []
    floor: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        sandboxes: list[Sandbox] = [await stack.enter_async_context(pool.acquire()) for _ in range(IN_FLIGHT)]
        for _ in range(rounds):
            ours.append(await block([sandbox.exec for sandbox in sandboxes]))
            floor.append(await block([plain] * IN_FLIGHT))
    mine, theirs = (f"{statistics.median(speed):.0f} /s" for speed in (ours, floor))
    return Row(f"throughput, {IN_FLIGHT} in flight", mine, theirs, ratio(ours, floor), ">= 2x, gate 1.5x")


async def fresh(backend: str, rounds: int) -> Row:
    launcher = LAUNCHERS[backend](SandboxSpec())
    await launcher.start()
    ours: list[float] = []
    floor: list[float] = []
    try:
        for _ in range(rounds):
            ours.append(await seconds(create_and_destroy(launcher)))
            floor.append(await seconds(plain("true")))
    finally:
        await launcher.close()
    return Row(
        "fresh slot, create + destroy", milliseconds(ours), milliseconds(floor), ratio(ours, floor), "<= 10x"
    )


async def create_and_destroy(launcher: NativeLauncher | BubblewrapLauncher) -> None:
    await (await launcher.launch()).close()


async def timeouts(pool: SandboxPool, rounds: int) -> Row:
    async with pool.acquire() as sandbox:
        taken = [await seconds(sandbox.exec("sleep 9", timeout_s=TIMEOUT_S)) for _ in range(rounds)]
    p99 = statistics.quantiles(taken, n=100, method="inclusive")[-1] - TIMEOUT_S
    return Row("timeout overshoot p99", f"{p99 * 1e3:.1f} ms", "", "", "<= 50 ms")


async def memory(backend: str) -> Row:
    launcher = LAUNCHERS[backend](SandboxSpec())
    await launcher.start()
    try:
        before = proportional_bytes()
        slots = [await launcher.launch() for _ in range(IDLE_SLOTS)]
        grown = proportional_bytes() - before
        await asyncio.gather(*(slot.close() for slot in slots))
    finally:
        await launcher.close()
    return Row(
        f"memory per idle slot, of {IDLE_SLOTS}", f"{grown / IDLE_SLOTS / 2**20:.2f} MB", "", "", "<= 1.5 MB"
    )


def proportional_bytes() -> int:
    """What our processes hold, shared pages divided; 0 for those that may not be looked at."""
    total = 0
    for pid in (os.getpid(), *descendants()):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) << 10 if line.startswith("Pss:") else 0
    return total


def descendants() -> Iterator[int]:
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found = [int(child) for child in children.read_text().split()]
                waiting += found
                yield from found


@dataclass(frozen=True)
class Traces:
    """What the sandboxes of this process could leave on the machine."""

    processes: int
    mounts: int
    cgroups: int
    directories: int
    descriptors: int

    @classmethod
    def now(cls) -> Traces:
        """Counted in the directory that is ours for temporary files, and by the names that sandboxes use."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        cgroups = Path("/sys/fs/cgroup").glob(f"**/atropos-{os.getpid()}-*")
        return cls(
            processes=sum(1 for _ in descendants()),
            mounts=sum(line.split()[4].endswith((WORKSPACE, rootfs.OLD)) for line in mounts),
            cgroups=sum(1 for _ in cgroups),
            directories=sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        )


def leftovers(before: Traces) -> Row:
    after = Traces.now()
    left = {field.name: getattr(after, field.name) - getattr(before, field.name) for field in fields(Traces)}
    return Row("left after close", ", ".join(f"{count} {name}" for name, count in left.items()), "", "", "0")


async def measure(backend: str, rounds: int) -> tuple[list[Row], str]:
    before = Traces.now()
    async with SandboxPool(backend, size=IN_FLIGHT) as pool:
        rows = [
            await one_command(pool, "true", rounds),
            await one_command(pool, "echo hi; ls /", rounds),
            await throughput(pool, rounds),
            await timeouts(pool, rounds),
        ]
        limits = ", ".join(f"{name}: {how}" for name, how in pool.isolation.limits.items())
    rows += [await fresh(backend, rounds), await memory(backend)]
    rows.append(leftovers(before))
    return rows, limits


def show(rows: Sequence[Row], title: str, caption: str) -> None:
    table = Table(title=title, caption=caption)
    for heading in HEADINGS:
        table.add_column(heading)
    for row in rows:
        table.add_row(*astuple(row))
    Console().print(table)


def print_markdown(rows: Sequence[Row], title: str, caption: str) -> None:
    print(f"{title}.\n")
    for cells in (HEADINGS, ["---"] * len(HEADINGS), *map(astuple, rows)):
        print("|", " | ".join(cells), "|")
    print(f"\n{caption}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=sorted(LAUNCHERS), default="native")
    parser.add_argument("--rounds", type=int, default=200, help=f"at least {FEWEST_ROUNDS}")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"a median of {options.rounds} rounds says little; take at least {FEWEST_ROUNDS}")
    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as tempfile.tempdir:
        rows, limits = asyncio.run(measure(options.backend, options.rounds))
    title = f"{options.backend}, medians of {options.rounds}, {os.cpu_count()} CPUs"
    title += f", Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    (print_markdown if options.markdown else show)(rows, title, limits)


if __name__ == "__main__":
    main()
