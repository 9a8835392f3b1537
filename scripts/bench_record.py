"""Measures what a record costs: encoding a rollout, sealing many, opening them, and a reader's memory.

    python -m scripts.bench_record --rollouts 100000
    python -m scripts.bench_record --run runs/quickstart

The first makes small rollouts with random float32 logprobs and ids from a vocabulary of 150,000, which
nothing can compress below their entropy. The second seals a copy of a real run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atropos_agent.record import RunDir, read_groups, read_rollouts
from atropos_agent.record.codec import rollout_to_json
from atropos_agent.record.jsonl import encode_line
from atropos_agent.record.log import GROUPS, head, segments
from atropos_agent.trajectory import (
    AgentResult,
    AgentStep,
    Completion,
    LogprobMode,
    LogprobProvenance,
    Provenance,
    Rollout,
    SamplingParams,
    SequenceData,
    StepSpan,
    StopReason,
    Timings,
    Trace,
)

VOCABULARY = 150_000
PROMPT, SAMPLED, GROUP = 48, 48, 8
PER_LOGPROB, PER_ID, PER_ROLLOUT = 3.5, 2.4, 400
SENTENCE = "The quick brown fox jumps over the lazy dog"


def a_rollout(index: int, rng: np.random.Generator) -> Rollout:
    """A rollout of one turn. Every value that differs between real rollouts is random."""
    size = PROMPT + SAMPLED
    ids = rng.integers(0, VOCABULARY, size, dtype=np.int32)
    mask = np.arange(size) >= PROMPT
    logprobs = np.full(size, np.nan, np.float32)
    logprobs[mask] = -rng.exponential(1.0, SAMPLED).astype(np.float32)
    span = StepSpan(1, PROMPT, size, Provenance.SAMPLED, LogprobProvenance.SAMPLED, LogprobMode.PROCESSED)
    text = f"{SENTENCE} {rng.integers(10**9)}"
    completion = Completion(
        text,
        token_ids=ids[mask],
        logprobs=logprobs[mask],
        provenance=Provenance.SAMPLED,
        logprob_provenance=LogprobProvenance.SAMPLED,
        logprob_mode=LogprobMode.PROCESSED,
        usage_prompt_tokens=PROMPT,
        usage_completion_tokens=SAMPLED,
        sampling=SamplingParams(seed=int(rng.integers(2**31))),
        timings=Timings(float(rng.exponential(0.001)), float(rng.exponential(1.0))),
        model="bench",
    )
    result = AgentResult(
        True,
        text,
        StopReason.FINAL_ANSWER,
        (AgentStep(1, text, completion, sequence_index=0, span=span),),
        (SequenceData(ids, mask, logprobs, (span,)),),
        ({"role": "user", "content": f"{SENTENCE} {index // GROUP}"},),
        SAMPLED,
    )
    return Rollout(
        f"item/{index // GROUP}#0.{index % GROUP}",
        f"item/{index // GROUP}",
        index % GROUP,
        (Trace(result, score=float(rng.integers(2))),),
        started_at=1.8e9 + index * float(rng.random()),
        duration_s=float(rng.exponential(1.0)),
    )


def lines(rollouts: int) -> Iterator[bytes]:
    """The live log of a run of `rollouts` rollouts."""
    rng = np.random.default_rng(1)
    for first in range(0, rollouts, GROUP):
        places = range(first, min(first + GROUP, rollouts))
        held = [rollout_to_json(a_rollout(index, rng)) for index in places]
        yield encode_line({**head(f"item/{first // GROUP}", 0), "rollouts": held, "dropped": None})


def encoding(path: Path) -> None:
    """Print the CPU time of encoding one rollout of the run at `path`."""
    held = list(read_rollouts(path))
    times: list[float] = []
    for _ in range(9):
        started = time.process_time()
        for rollout in held:
            encode_line(rollout_to_json(rollout))
        times.append((time.process_time() - started) / len(held))
    print(f"encode: {sorted(times)[4] * 1e6:.0f} us of CPU a rollout")


def sealing(path: Path) -> None:
    """Seal the run at `path`; print sizes, times and the memory of a reader."""
    tokens = logprobs = count = 0
    for rollout in read_rollouts(path):
        count += 1
        for sequence in (held for trace in rollout.traces for held in trace.result.sequences):
            tokens += len(sequence)
            logprobs += int((~np.isnan(sequence.own_logprobs)).sum())
    started = time.perf_counter()
    with RunDir.open(path) as run:
        opened = time.perf_counter() - started
        sealed = run.seal()
        took = time.perf_counter() - started - opened
    print(f"{count:,} rollouts, {tokens:,} tokens, {logprobs:,} logprobs; sealed in {took:.1f} s")
    before, after = sealed.live_bytes, sealed.segment_bytes
    print(f"live {before:,} bytes ({before / tokens:.2f} a token), opened in {opened:.2f} s")
    print(f"sealed {after:,} bytes ({after / tokens:.2f} a token)")
    budget = PER_LOGPROB * logprobs + PER_ID * tokens + PER_ROLLOUT * count
    rest = (after - PER_LOGPROB * logprobs - PER_ID * tokens) / count
    print(f"budget {budget:,.0f} bytes; beside {PER_LOGPROB} a logprob, {PER_ID} an id: {rest:.0f} a rollout")
    columns(path)
    started = time.perf_counter()
    RunDir.open(path).close()
    print(f"opened in {time.perf_counter() - started:.2f} s")
    # Spawned: a forked child would begin with the memory of this process.
    reader = multiprocessing.get_context("spawn").Process(target=reading, args=(path,))
    reader.start()
    reader.join()


def columns(path: Path) -> None:
    """Print the compressed size of each column."""
    import pyarrow.parquet as pq

    sizes: dict[str, int] = {}
    for segment in segments(path):
        metadata = pq.ParquetFile(segment).metadata
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                column = metadata.row_group(group).column(at)
                sizes[column.path_in_schema] = (
                    sizes.get(column.path_in_schema, 0) + column.total_compressed_size
                )
    print("  ".join(f"{name} {size:,}" for name, size in sizes.items()))


def reading(path: Path) -> None:
    """Print how the peak memory of this process, which does nothing else, grows while groups are read."""
    rollouts, marks = 0, list[str]()
    started = time.perf_counter()
    for record in read_groups(path):
        rollouts += len(record.rollouts)
        if rollouts % 20_000 == 0:
            marks.append(peak_memory())
    took = time.perf_counter() - started
    print(f"read in {took:.1f} s; peak memory every 20,000 rollouts: {', '.join(marks) or '-'}")


def peak_memory() -> str:
    """Of this process since its program was loaded; `getrusage` would count that of its parent."""
    status = Path("/proc/self/status").read_text()
    return status.partition("VmHWM:")[2].partition("\n")[0].strip()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rollouts", type=int, default=100_000)
    arguments.add_argument("--run", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        if given.run is not None:
            shutil.copytree(given.run, path)
            encoding(path)
        else:
            RunDir.create(path, {}).close()
            # Written directly: add_group would wait for the disk once a group.
            with (path / GROUPS).open("wb") as file:
                file.writelines(lines(given.rollouts))
        sealing(path)


if __name__ == "__main__":
    main()
