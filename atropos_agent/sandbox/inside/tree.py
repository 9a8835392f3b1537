"""Who lives in the slot: programs that are kept between commands, their descendants, and all others."""

from __future__ import annotations

import contextlib
import os
import signal
import time

_ROUNDS = 100
_ROUND_S = 0.001


class Family:
    """Every process of this pid namespace, seen from its pid 1.

    A kept program is a subreaper: what it starts stays below it, however it detaches, so that whose process
    is whose can be read off the tree of parents.
    """

    def __init__(self) -> None:
        self._statuses: dict[int, int | None] = {}
        self._kept: set[int] = set()

    def adopt(self, pid: int, *, keep: bool = False) -> None:
        """Remember how the child `pid` ends; with `keep`, let it and its descendants outlive `end_others`."""
        self._statuses[pid] = None
        if keep:
            self._kept.add(pid)

    def status(self, pid: int) -> int | None:
        """How an adopted child ended, as waitpid tells; None while it runs."""
        if self._statuses[pid] is None:
            self._reap()
        return self._statuses[pid]

    def wait(self, pid: int) -> int:
        """Wait until an adopted child has ended: its wait status."""
        status = self._statuses[pid]
        if status is None:
            status = self._statuses[pid] = os.waitpid(pid, 0)[1]
        return status

    def release(self, pid: int) -> int:
        """End an adopted child and what descends from it: its wait status."""
        self._kept.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            if self._statuses[pid] is None:
                os.kill(pid, signal.SIGKILL)
        self.end_others()
        status = self.wait(pid)
        del self._statuses[pid]
        return status

    def end_others(self) -> None:
        """Kill and reap every process but the kept ones; where processes multiply faster than they can be
        told apart, everything."""
        if any(self._statuses[pid] is None for pid in self._kept):
            for _ in range(_ROUNDS):
                self._reap()
                others = self._others()
                if not others:
                    return
                for pid in others:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(_ROUND_S)
        self.end_everything()

    def end_everything(self) -> None:
        """Kill and reap every process of this namespace but ourselves."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                self._note(*os.waitpid(-1, 0))

    def interrupt(self, pid: int) -> None:
        """What ^C would do to the process group of `pid`."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGINT)

    def _others(self) -> list[int]:
        """Pids that descend from no kept program. The dead that nobody has reaped are left out."""
        parents = _parents()
        children: dict[int, list[int]] = {}
        for pid, parent in parents.items():
            children.setdefault(parent, []).append(pid)
        waiting = list(self._kept)
        while waiting:
            pid = waiting.pop()
            parents.pop(pid, None)
            waiting += children.get(pid, ())
        return list(parents)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._note(pid, status)

    def _note(self, pid: int, status: int) -> None:
        if pid in self._statuses:
            self._statuses[pid] = status


def _parents() -> dict[int, int]:
    """pid: its parent's pid, of all living processes but ourselves."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                state, parent = file.read(512).rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    found[int(name)] = int(parent)
    return found
