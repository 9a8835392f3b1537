"""Seals copies of a run and ends the process before one step after the other, the way SIGKILL does.

    python -m tests.crashing_sealer RUN ROOT

Each step is an operation that changes names or empties a file (open for writing, mkdir, rename, remove,
truncate). ROOT/N is what is left where the process ends before its step N; the last one is sealed whole.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet  # noqa: F401  imported once, before the forks

from atropos_agent.record import RunDir

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.truncate", "os.rmdir", "os.link", "os.symlink")
KILLED = 9


def changes(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        flags = arguments[2]
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    return event in CHANGES


def seal(path: Path, last: int) -> None:
    """Seal and end the process before step `last`."""
    with RunDir.open(path) as run:
        step = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal step
            if changes(event, arguments):
                step += 1
                if step == last:
                    os._exit(KILLED)

        sys.addaudithook(watch)
        run.seal()
    os._exit(0)


def main(run: Path, root: Path) -> None:
    step, code = 0, KILLED
    while code == KILLED:
        step += 1
        shutil.copytree(run, root / str(step))
        if not (child := os.fork()):
            seal(root / str(step), step)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise RuntimeError(f"sealing failed at step {step}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
