"""What a rollout costs in one checkout, as a ratio to another: client CPU and peak memory, interleaved.

One FakeServer process serves both. Each checkout has a client process of its own, which plays the same
workload through its own `scripts/bench_support`. The two take turns, so that what the machine does besides
hits both. Printed are the median ratio of each workload and its 95 % bootstrap interval.

    python scripts/bench_checkouts.py ../before . --pairs 15
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import median

sys.path.insert(0, os.environ.get("BENCH_CHECKOUT", str(Path(__file__).resolve().parent.parent)))

import numpy as np

from atropos_agent.renderer import Renderer
from scripts.bench_support import measure
from scripts.bench_support.contenders import Ours, Record
from scripts.bench_support.measure import peak_bytes, play, timed
from scripts.bench_support.workload import Workload, fake_server, script_of

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "atropos_agent" / "policy" / "embedded_model"
WORKLOADS = (Workload(), Workload(turns=50, rollouts=16))
RESAMPLES = 10_000


def renderer_of_this_checkout() -> Renderer:
    """The renderer as an agent of this checkout has it; older checkouts take no marks."""
    try:
        from atropos_agent.dialects.hermes import HERMES_MARKS
    except ImportError:
        return Renderer.load(SHIPPED)
    return Renderer.load(SHIPPED, marks=HERMES_MARKS)


class Client:
    """A process that plays on demand with the code of one checkout."""

    def __init__(self, checkout: Path, workload: Workload, url: str) -> None:
        roots = (checkout, checkout / "tools", checkout / "environments")
        paths = os.pathsep.join(str(path.resolve()) for path in roots)
        environ = os.environ | {"PYTHONPATH": paths, "BENCH_CHECKOUT": str(checkout.resolve())}
        command = [sys.executable, __file__, "--client", json.dumps(asdict(workload)), url]
        self._process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> float:
        """Seconds of CPU of one rollout (`cpu`), or its peak of memory in bytes (`peak`)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


async def serve(workload: Workload, url: str) -> None:
    """The client's side: answer each line of stdin with one number."""
    # The server counts the turns of a session by its name, which both clients would count from 0.
    measure._SESSIONS = count(os.getpid() * 1_000_000)  # noqa: SLF001
    renderer = renderer_of_this_checkout()
    who = Ours(url, script_of(workload, renderer), renderer)
    reference: Record = (await play(who, workload.in_flight, workload.in_flight))[0]
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "peak":
            print(await peak_bytes(who, workload), flush=True)
        else:
            print((await timed(who, workload, reference)).cpu_s, flush=True)
    await who.aclose()


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(np.array(ratios), (RESAMPLES, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def compare(old: Path, new: Path, workload: Workload, pairs: int) -> None:
    """Measure one workload and print it."""
    with ExitStack() as stack:
        url = stack.enter_context(
            fake_server(workload, SHIPPED, renderer_of_this_checkout().certificate.close_text)
        )
        before, after = (Client(checkout, workload, url) for checkout in (old, new))
        stack.callback(before.close)
        stack.callback(after.close)
        for client in (before, after):
            client.ask("cpu")
        ratios: list[float] = []
        for pair in range(pairs):
            first, second = (before, after) if pair % 2 else (after, before)
            taken = {first: first.ask("cpu"), second: second.ask("cpu")}
            ratios.append(taken[after] / taken[before])
        low, high = interval(ratios)
        peaks = [client.ask("peak") / 1000 for client in (before, after)]
    print(
        f"{workload.name}: CPU {median(ratios):.3f} x [{low:.3f}, {high:.3f}] over {pairs} pairs; "
        f"peak of a rollout {peaks[0]:.0f} -> {peaks[1]:.0f} kB",
        flush=True,
    )


def main() -> None:
    """Compare two checkouts, or be a client of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        asyncio.run(serve(Workload(**json.loads(given.client[0])), given.client[1]))
        return
    if given.old is None:
        parser.error("name the checkout to compare with")
    for workload in WORKLOADS:
        compare(given.old, given.new, workload, given.pairs)


if __name__ == "__main__":
    main()
