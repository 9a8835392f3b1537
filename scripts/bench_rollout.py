"""Measures what one rollout costs the client, beside floors: the same requests without an agent.

A FakeServer process on loopback plays K tool turns and a final answer. In one run, interleaved:
  ours              AtroposAgent over HttpPolicy, real renderer, ids, masks and logprobs recorded
  floor_gen         bare aiohttp; lists of ids, masks and logprobs; observations encoded; stdlib json
  floor_gen_orjson  the same with orjson
  floor_own         our transport; ids kept as encoded bytes, arrays; no agent
CPU is that of this process (all threads), per rollout, warm-up excluded. Memory is tracemalloc's peak over
as many rollouts as are in flight, divided by them. Compare ratios within a run, not milliseconds across runs.

    python scripts/bench_rollout.py --json bench.json
    python scripts/bench_rollout.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

# Python puts only the folder of the script on the path; `scripts` is imported from the one above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy.protocol import Wire
from atropos_agent.renderer import Renderer
from scripts.bench_support.contenders import contenders
from scripts.bench_support.measure import Sample, peak_bytes, play, timed
from scripts.bench_support.workload import Workload, fake_server, script_of

SHIPPED = Path(__file__).resolve().parent.parent / "atropos_agent" / "policy" / "embedded_model"
BASE = Workload()
LONG = tuple(Workload(turns=turns, rollouts=16, repeats=n) for turns, n in ((20, 5), (50, 5), (200, 2)))
WIDE = tuple(replace(BASE, in_flight=n, rollouts=max(64, n)) for n in (1, 64, 256))
LARGE = (replace(BASE, output_bytes=10_000), replace(BASE, output_bytes=100_000, rollouts=16, repeats=3))
FULL = (BASE, *WIDE, *LONG, *LARGE, replace(BASE, wire=Wire.LLAMA_CPP))
FIGURES = ("rollouts/s", "CPU ms", "least", "ms/step", "x gen", "x orjson", "+ms/step", "peak kB")
TABLE_WIDTH = 140
QUICK = (replace(BASE, rollouts=32, repeats=3), Workload(turns=20, rollouts=16, repeats=3))


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender on one workload: its samples in the order taken, and its peak memory per rollout."""

    samples: list[Sample] = field(default_factory=list[Sample])
    peak_bytes: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """Median CPU of one rollout."""
        return 1000 * median(sample.cpu_s for sample in self.samples)

    @property
    def least_cpu_ms(self) -> float:
        """The least of the repeats."""
        return 1000 * min(sample.cpu_s for sample in self.samples)

    @property
    def per_second(self) -> float:
        """Median rollouts per second of wall time."""
        return 1 / median(sample.wall_s for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Cell:
    """All contenders on one workload."""

    workload: Workload
    measured: dict[str, Measured]

    def ratio(self, name: str, floor: str) -> float:
        """Median over the repeats of one contender's CPU in another's."""
        pairs = zip(self.measured[name].samples, self.measured[floor].samples, strict=True)
        return median(mine.cpu_s / theirs.cpu_s for mine, theirs in pairs)

    def extra_ms_per_step(self, name: str, floor: str) -> float:
        """Median over the repeats of the CPU of one step above another contender's."""
        pairs = zip(self.measured[name].samples, self.measured[floor].samples, strict=True)
        return 1000 * median(mine.cpu_s - theirs.cpu_s for mine, theirs in pairs) / self.workload.requests


async def measure(workload: Workload, renderer: Renderer, folder: Path) -> Cell:
    """All contenders on one workload, interleaved, each sample checked against one reference record."""
    script = script_of(workload, renderer)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with fake_server(workload, folder, renderer.certificate.close_text) as url:
        playing = contenders(url, script, renderer, tokenizer)
        try:
            warm = {
                name: await play(who, workload.in_flight, workload.in_flight) for name, who in playing.items()
            }
            reference = warm["floor_gen"][0]
            for name, records in warm.items():
                if not all(record.same_as(reference) for record in records):
                    raise RuntimeError(f"{name} recorded other tokens than floor_gen on {workload.name}")
            samples: dict[str, list[Sample]] = {name: [] for name in playing}
            for repeat in range(workload.repeats):
                # Rotated, so that no contender always runs after the same other one.
                order = [*playing][repeat % len(playing) :] + [*playing][: repeat % len(playing)]
                for name in order:
                    samples[name].append(await timed(playing[name], workload, reference))
            peaks = {name: await peak_bytes(who, workload) for name, who in playing.items()}
        finally:
            for who in playing.values():
                await who.aclose()
    return Cell(workload, {name: Measured(samples[name], peaks[name]) for name in playing})


def shown(cells: Sequence[Cell]) -> Table:
    """Every figure, one row per contender and workload."""
    caption = "x gen, x orjson: CPU in that of floor_gen, floor_gen_orjson; +ms/step: CPU above floor_own's"
    table = Table(title="Client cost of one rollout", title_justify="left", caption=caption)
    for heading in ("workload", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in FIGURES:
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in cells:
        for name, measured in cell.measured.items():
            table.add_row(
                cell.workload.name if name == "ours" else "",
                name,
                f"{measured.per_second:.0f}",
                f"{measured.cpu_ms:.2f}",
                f"{measured.least_cpu_ms:.2f}",
                f"{measured.cpu_ms / cell.workload.requests:.3f}",
                f"{cell.ratio(name, 'floor_gen'):.2f}",
                f"{cell.ratio(name, 'floor_gen_orjson'):.2f}",
                f"{cell.extra_ms_per_step(name, 'floor_own'):+.3f}",
                f"{measured.peak_bytes / 1000:.0f}",
            )
        table.add_section()
    return table


def aims(cells: Sequence[Cell]) -> list[tuple[str, float, float]]:
    """Each aim in words, its measured value and its bound; aims whose workloads were not run are left out."""
    found = {cell.workload.name: cell for cell in cells if cell.workload.wire is Wire.VLLM}

    base, c256, t50, t200 = (
        found.get(Workload(turns=turns, in_flight=in_flight).name)
        for turns, in_flight in ((5, 16), (5, 256), (50, 16), (200, 16))
    )
    rows: list[tuple[str, float, float]] = []
    for cell, bound in ((base, 2.6), (t50, 1.4)):
        if cell:
            turns = cell.workload.turns
            rows.append((f"CPU in floor_gen's, {turns} turns", cell.ratio("ours", "floor_gen"), bound))
            extra = cell.extra_ms_per_step("ours", "floor_own")
            rows.append((f"ms a step above floor_own, {turns} turns", extra, 0.15))
    for cell, what in ((c256, "256 in flight to 16"), (t200, "200 turns to 5")):
        if base and cell:
            rows.append((f"CPU a step, {what}, in the same of floor_own", growth(cell, base), 1.15))
    if t50:
        rows.append(("peak MB of a 50-turn rollout", t50.measured["ours"].peak_bytes / 1e6, 1.0))
    return rows


def growth(cell: Cell, base: Cell) -> float:
    """How much more a step of ours costs on `cell` than on `base`, in the same ratio of floor_own.

    Its steps cost more there too: bodies hold the whole prompt, and connections are more.
    """

    def grown(name: str) -> float:
        per_step = [one.measured[name].cpu_ms / one.workload.requests for one in (cell, base)]
        return per_step[0] / per_step[1]

    return grown("ours") / grown("floor_own")


async def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small workloads, under 20 s")
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument(
        "--tokenizer", type=Path, default=SHIPPED, help="folder; default: the shipped model's"
    )
    given = parser.parse_args()
    if not (given.tokenizer / "tokenizer.json").is_file():
        parser.error(f"no tokenizer.json in {given.tokenizer}; give a folder with --tokenizer")
    renderer = Renderer.load(given.tokenizer, marks=HERMES_MARKS)
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    cells: list[Cell] = []
    for workload in QUICK if given.quick else FULL:
        console.print(f"[dim]{workload.name} ...[/dim]")
        cells.append(await measure(workload, renderer, given.tokenizer))
    console.print(shown(cells))
    for what, value, bound in aims(cells):
        verdict = "met" if value <= bound else "missed"
        console.print(f"{verdict}: {what}: {value:.2f}, aim {bound:g}")
    if given.json:
        given.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))


if __name__ == "__main__":
    asyncio.run(main())
