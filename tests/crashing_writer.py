"""Writes a run directory and is killed by the kernel when a file reaches a given size.

    python -m tests.crashing_writer ROOT LIMIT...

Each LIMIT (bytes) is one process that writes or continues ROOT/LIMIT until a write crosses the limit; what
was acknowledged to it goes to ROOT/LIMIT.acks, one `item repetition rollout` a line.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from atropos_agent.record import RunDir
from atropos_agent.trajectory import RolloutGroup
from tests.rollouts import a_rollout

ITEMS = ("first", "second", "a/../third")
GROUP_SIZE = 3


def collect(run: RunDir, acknowledge: Callable[[str, int, str], object]) -> None:
    """Collect what is missing, the way a resume does."""
    for repetition in range(2):
        for item in ITEMS:
            if (item, repetition) in run.finished:
                continue
            held = {rollout.index: rollout for rollout in run.pending(item, repetition)}
            for index in range(GROUP_SIZE):
                if index not in held:
                    held[index] = a_rollout(index)
                    run.add_rollout(item, repetition, held[index])
                    acknowledge(item, repetition, held[index].id)
            run.add_group(RolloutGroup(item, repetition, tuple(held.values())))


def write_until_killed(path: Path, limit: int, acks: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with RunDir.create(path, {"identity": {"seed": 1}}) as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        collect(run, lambda *ack: os.write(acks, f"{' '.join(map(str, ack))}\n".encode()))


def main(root: Path, limits: list[int]) -> None:
    for limit in limits:
        reader, writer = os.pipe()
        if not (child := os.fork()):
            write_until_killed(root / str(limit), limit, writer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            (root / f"{limit}.acks").write_bytes(pipe.read())
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(limit) for limit in sys.argv[2:]])
