"""The lock that one writer holds on a run directory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from atropos_agent.errors import RunDirectoryError
from atropos_agent.record.durable import named

LOCK = "lock"
LOCK_WAIT_S = 1.0


def lock(path: Path) -> int:
    """Lock the directory `path` for this process. Returns the descriptor that holds the lock.

    Waits for up to a second: children of a killed writer may still hold the lock. Raises RunDirectoryError.
    """
    file = path / LOCK
    with named(file, "cannot be locked"):
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with named(file, "cannot be locked"):
            _flock(fd, path)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unlock(fd: int) -> None:
    """Release the directory, also where a forked child has inherited the descriptor."""
    # Closing is not enough: the lock lives until every copy of the descriptor is closed.
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _flock(fd: int, path: Path) -> None:
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                holder = os.pread(fd, 20, 0).decode("ascii", "replace")
                raise RunDirectoryError(
                    f"{path} is being written by process {holder}; wait for it or stop it"
                ) from error
            time.sleep(0.02)
        else:
            return
