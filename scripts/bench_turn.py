"""Measures what one turn costs the client, at turn 5 and at turn 200: rendering, tracking, checks, no server.

A turn is what the agent does between a completion and the next request: resolve_tokens, add_completion,
bridge (with its run-time check), add_bridge. For comparison, in the same run: the cost of the same turn when
the whole conversation is rendered and encoded again (`anew`). Figures are medians of CPU over the ten turns
up to the named one and over the repeats; `end` is the check of all bridges at the end, per turn of the
rollout, and `worst` the most expensive turn (one that renders the whole). Compare ratios within a run.

    python scripts/bench_turn.py --json bench.json
    python scripts/bench_turn.py --quick
    python scripts/bench_turn.py --template qwen3.jinja     one more chat template, from a file
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.console import Console
from rich.table import Table

from atropos_agent.agent.tokens import resolve_tokens
from atropos_agent.agent.tracker import Tracker
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call, result_to_xml
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import (
    Completion,
    LogprobProvenance,
    Message,
    Provenance,
    ToolResult,
)

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "atropos_agent" / "policy" / "embedded_model"
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{{- m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
HEAVY = ROOT / "tests" / "zoo" / "qwen3_full.jinja"
TURNS = (5, 20, 50, 100, 200)
WINDOW = 10
TABLE_WIDTH = 130
_THOUGHT = "The last page was not the end of the list, so I go on to the one behind it and look again. "
_LINE = "drwxr-xr-x 2 user user 4096 report_{number:04d}.txt\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """A conversation with about `sampled` and `observed` tokens in each turn."""

    name: str
    sampled: int
    observed: int
    repeats: int = 5


SHORT = Workload("short turns", 60, 60)
LONG = Workload("1,000 tokens a turn", 500, 500)


@dataclass(frozen=True, slots=True)
class Measured:
    """One template on one workload. Times are seconds of CPU by turn, `anew` by named turn."""

    template: str
    workload: Workload
    tokens: dict[int, int]
    turn_s: list[list[float]]
    anew_s: dict[int, list[float]]
    end_s: list[float]

    def at(self, turn: int) -> float:
        """Median cost of the turns up to `turn`."""
        return median(cost for run in self.turn_s for cost in run[max(turn - WINDOW, 1) : turn])


def filled(renderer: Renderer, piece: str, tokens: int) -> str:
    """Text of about `tokens` tokens, made of `piece`."""
    return piece * max(round(tokens / len(renderer.encode(piece * 10)) * 10), 1)


def completion_of(renderer: Renderer, workload: Workload, turn: int) -> Completion:
    call = render_call("look", {"page": turn})
    thought = filled(renderer, _THOUGHT, workload.sampled - len(renderer.encode(call)))
    text = f"<think>\n{thought}\n</think>\n\n{call}"
    ids = np.concatenate([renderer.encode(text), renderer.certificate.close_ids]).astype(np.int32)
    return Completion(
        text,
        ids,
        logprobs=np.full(len(ids), -0.5, np.float32),
        provenance=Provenance.SAMPLED,
        logprob_provenance=LogprobProvenance.SAMPLED,
    )


def observation_of(renderer: Renderer, workload: Workload, turn: int) -> str:
    listing = filled(renderer, _LINE.format(number=turn), workload.observed)
    return result_to_xml(ToolResult(success=True, output=listing), renderer.control_tokens)


def play(renderer: Renderer, workload: Workload, measured: Measured, repeat: int) -> None:
    """One rollout of as many turns as the last named one; each turn is timed."""
    messages: list[Message] = [
        {"role": "system", "content": "You solve small tasks with a tool."},
        {"role": "user", "content": f"List what is there, page by page. Run {repeat}."},
    ]
    opening = renderer.render(messages)
    tracker = Tracker(messages, opening.ids, opening.text)
    costs: list[float] = []
    for turn in range(1, max(measured.anew_s) + 1):
        sampled = completion_of(renderer, workload, turn)
        observation = observation_of(renderer, workload, turn)
        started = time.process_time()
        completion = resolve_tokens(sampled, renderer)
        assert completion.token_ids is not None
        tracker.add_completion(turn, completion, completion.text)
        messages.append({"role": "assistant", "content": completion.text})
        messages.append({"role": "user", "content": observation})
        tracker.add_bridge(
            renderer.bridge(messages, completion.token_ids, finish=completion.finish_reason, turn=turn)
        )
        costs.append(time.process_time() - started)
        if turn in measured.anew_s:  # after the turn's clock was read: the comparison has its own
            measured.tokens[turn] = len(tracker.prompt)
            started = time.process_time()
            renderer.render(messages)
            measured.anew_s[turn].append(time.process_time() - started)
    measured.turn_s.append(costs)
    started = time.process_time()
    renderer.check_bridges(messages)
    measured.end_s.append((time.process_time() - started) / len(costs))


def shown(cells: Sequence[Measured]) -> Table:
    """Every figure in ms."""
    table = Table(title="Client cost of one turn, ms", title_justify="left")
    for heading in ("template", "workload"):
        table.add_column(heading, no_wrap=True)
    for heading in ("turn", "tokens", "ours", "anew", "anew/ours", "ours, in turn 5's", "worst", "end"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in cells:
        first = cell.at(min(cell.anew_s))
        for turn, anew in cell.anew_s.items():
            last = turn == max(cell.anew_s)
            table.add_row(
                cell.template if turn == min(cell.anew_s) else "",
                cell.workload.name if turn == min(cell.anew_s) else "",
                f"{turn}",
                f"{cell.tokens[turn]:,}",
                f"{1000 * cell.at(turn):.3f}",
                f"{1000 * median(anew):.2f}",
                f"{median(anew) / cell.at(turn):.1f}",
                f"{cell.at(turn) / first:.2f}",
                f"{1000 * max(median(run) for run in zip(*cell.turn_s, strict=True)):.2f}" if last else "",
                f"{1000 * median(cell.end_s):.3f}" if last else "",
            )
        table.add_section()
    return table


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 50 turns, short ones")
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument("--template", type=Path, action="append", default=[], help="a chat template to add")
    given = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(SHIPPED))
    templates = {"ChatML": CHATML, **{path.stem: path.read_text() for path in [HEAVY, *given.template]}}
    turns = TURNS[:3] if given.quick else TURNS
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    cells: list[Measured] = []
    for name, template in templates.items():
        tokenizer.chat_template = template
        renderer = Renderer(tokenizer, marks=HERMES_MARKS)
        for workload in (SHORT,) if given.quick else (SHORT, LONG):
            console.print(f"[dim]{name}, {workload.name} ...[/dim]")
            cell = Measured(name, workload, {}, [], {turn: [] for turn in turns}, [])
            for repeat in range(workload.repeats):
                play(renderer, workload, cell, repeat)
            cells.append(cell)
    console.print(shown(cells))
    for cell in cells:
        last = cell.at(max(turns))
        flat, verdict = last / cell.at(min(turns)), "met" if last < 0.001 else "missed"
        what = f"{cell.template}, {cell.workload.name}: turn {max(turns)}"
        console.print(f"{verdict}: {what}: {1000 * last:.3f} ms, {flat:.2f} of turn {min(turns)}, aim 1 ms")
    if given.json:
        given.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))


if __name__ == "__main__":
    main()
