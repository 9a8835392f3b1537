"""Measure a model directory on tasks: llama.cpp's server, the real terminal tool, the real sandbox.

Sampling is at temperature 1, without truncation of the distribution. A group is `--rollouts` attempts at one
task; it is mixed if its scores differ. Without --items every family is measured at every difficulty.

    python scripts/measure_tiny_policy.py DIR --tasks 8 --json measured.json
    python scripts/measure_tiny_policy.py DIR --items count_lines/1 chores/2 --groups 512
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import httpx
from tokenizers import Tokenizer

from atropos_agent.dialects.hermes import result_to_xml
from atropos_agent.dialects.hermes.parser import parse
from atropos_agent.sandbox import SandboxPool
from atropos_agent.sandbox.protocol import Sandbox
from atropos_agent.toolset import ToolContext
from atropos_environments.terminal_tasks.checks import check, score_of
from atropos_environments.terminal_tasks.generate import families, generate
from atropos_environments.terminal_tasks.prompts import SHORT_SYSTEM_PROMPT
from atropos_environments.terminal_tasks.task import DIFFICULTIES, Task
from atropos_tools.terminal import Terminal

MAX_STEPS = 8
MAX_TOKENS = 256
CONTEXT_TOKENS = 1536
SLOTS = 16
SERVER = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = int(sys.argv[2]), int(sys.argv[3]), 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("address", server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores of one group of rollouts of one task."""

    kind: str
    task_id: str
    scores: tuple[float, ...]

    @property
    def mixed(self) -> bool:
        """True where the scores differ, so that a trainer gets a signal."""
        return len(set(self.scores)) > 1


@contextmanager
def server(model: Path) -> Iterator[str]:
    """Base URL of a llama.cpp server that ends with the block."""
    command = [sys.executable, "-c", SERVER, str(model), str(CONTEXT_TOKENS * SLOTS), str(SLOTS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("address "):
                    yield line.split()[1]
                    break
            else:
                raise RuntimeError(f"llama.cpp ended with {process.wait()} before it listened")
        finally:
            process.terminate()


class Player:
    """Plays tasks with one model."""

    def __init__(self, tokenizer: Tokenizer, client: httpx.AsyncClient, pool: SandboxPool) -> None:
        self._tokenizer, self._client, self._pool = tokenizer, client, pool
        self._terminal = Terminal()

    async def rollout(self, task: Task, seed: int) -> float:
        """Score of one attempt."""
        async with self._pool.acquire() as sandbox:
            await prepare(sandbox, task)
            before = await sandbox.snapshot()
            final = await self._converse(task, sandbox, seed)
            return score_of(check(task, final, before, await sandbox.snapshot()))

    async def _converse(self, task: Task, sandbox: Sandbox, seed: int) -> str:
        context = ToolContext(sandbox=sandbox, rollout_id="measure", deadline=None)
        ids = self._ids(f"<|im_start|>system\n{SHORT_SYSTEM_PROMPT}<|im_end|>\n")
        ids += self._ids(f"<|im_start|>user\n{task.prompt}<|im_end|>\n<|im_start|>assistant\n")
        for step in range(MAX_STEPS):
            sampled, text = await self._complete(ids, seed * MAX_STEPS + step)
            parsed = parse(text)
            if not parsed.calls:
                return "" if parsed.errors else parsed.content.strip()
            results = []
            for call in parsed.calls:
                if call.name != "terminal" or not isinstance(call.arguments.get("command"), str):
                    return ""
                results.append(result_to_xml(await self._terminal.execute(call.arguments, context)))
            observation = "\n".join(results)
            # The sampled ids are kept: encoding their text again could give other ids.
            ids += sampled + self._ids(
                f"\n<|im_start|>user\n{observation}<|im_end|>\n<|im_start|>assistant\n"
            )
            if len(ids) + MAX_TOKENS > CONTEXT_TOKENS:
                return ""
        return ""

    async def _complete(self, ids: list[int], seed: int) -> tuple[list[int], str]:
        body = {
            "prompt": ids,
            "n_predict": MAX_TOKENS,
            "return_tokens": True,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "seed": seed,
        }
        answer = (await self._client.post("/completion", json=body)).raise_for_status().json()
        return answer["tokens"], answer["content"]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


async def prepare(sandbox: Sandbox, task: Task) -> None:
    """Fill the workspace as the task says."""
    await sandbox.write_files(task.files)
    if task.setup_command:
        await sandbox.exec(task.setup_command)


async def measure(model: Path, tasks: Sequence[Task], rollouts: int) -> list[Outcome]:
    """One group per task."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    with server(model / "model.gguf") as url:
        async with (
            httpx.AsyncClient(
                base_url=url, timeout=600, limits=httpx.Limits(max_connections=SLOTS)
            ) as client,
            SandboxPool(size=SLOTS) as pool,
        ):
            player = Player(tokenizer, client, pool)

            async def group(number: int, task: Task) -> Outcome:
                # No two rollouts share a seed: equal seeds could give equal rollouts.
                seeds = range(number * rollouts, (number + 1) * rollouts)
                scores = await asyncio.gather(*(player.rollout(task, seed) for seed in seeds))
                return Outcome(f"{task.family}/{task.difficulty}", task.id, tuple(scores))

            return list(await asyncio.gather(*(group(number, task) for number, task in enumerate(tasks))))


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Per kind (family/difficulty) and in total: groups, share solved (score 1), mean score, share mixed."""
    kinds: Mapping[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
        kinds["total"].append(outcome)
    return {
        kind: {
            "groups": len(members),
            "solved": round(mean(score == 1.0 for member in members for score in member.scores), 4),
            "score": round(mean(score for member in members for score in member.scores), 4),
            "mixed": round(mean(member.mixed for member in members), 4),
        }
        for kind, members in sorted(kinds.items())
    }


def chosen_tasks(items: Sequence[str], per_kind: int, groups: int | None, first_seed: int) -> list[Task]:
    """`per_kind` tasks of each kind, or `groups` tasks that take the kinds in turn."""
    kinds = items or [f"{family}/{difficulty}" for family in families() for difficulty in DIFFICULTIES]
    total = groups or per_kind * len(kinds)
    made = []
    for number in range(total):
        family, difficulty = kinds[number % len(kinds)].split("/")
        made.append(generate(family, int(difficulty), first_seed + number // len(kinds)))
    return made


def main() -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory with model.gguf and tokenizer.json")
    parser.add_argument("--items", nargs="*", default=[], help="kinds to measure, as family/difficulty")
    parser.add_argument("--tasks", type=int, default=8, help="tasks of each kind")
    parser.add_argument("--groups", type=int, help="number of groups in all, instead of --tasks")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    tasks = chosen_tasks(options.items, options.tasks, options.groups, options.first_seed)
    table = summary(asyncio.run(measure(options.model, tasks, options.rollouts)))
    for kind, row in table.items():
        print(f"{kind:22} groups {row['groups']:4}  solved {row['solved']:.3f}  mixed {row['mixed']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
