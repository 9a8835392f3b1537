"""Who lives in the slot: programs that are kept between commands, their descendants, and all others."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from atropos_agent.sandbox.inside.oom import Expendable

_ROUNDS = 100
_ROUND_S = 0.001
_CALM_ROUNDS = 2  # one look may miss a process whose parent ends meanwhile
_THREADS = 17
_WALL = 0x4000_0000  # also children whose end no SIGCHLD tells of
_DEAD = os.WNOHANG | _WALL


class Family:
    """Every process of this pid namespace, seen from its pid 1.

    A kept program is a subreaper: what it starts stays below it, however it detaches, so that whose process
    is whose can be read off the tree of parents. While a command runs in the foreground nothing of it ends
    because something kept does. `used_s` is the CPU time of all that was ever reaped, with what that had
    reaped itself; what is started with `expendable` shall die for want of memory before we do.
    """

    def __init__(self) -> None:
        """To be made before the process may no longer be looked at. Raises RuntimeError where we are not
        pid 1: to end everything would end the machine's processes."""
        if os.getpid() != 1:
            raise RuntimeError(f"the supervisor is pid {os.getpid()}; it must be pid 1 of a namespace")
        self.used_s: float = 0.0
        self.expendable: Expendable = Expendable()
        self._foreground: int | None = None
        self._statuses: dict[int, int | None] = {}
        self._kept: set[int] = set()

    def adopt(self, pid: int, *, keep: bool = False) -> None:
        """Remember how the child `pid` ends; with `keep`, let it and its descendants outlive the foreground,
        which it is otherwise."""
        self._statuses[pid] = None
        if keep:
            self._kept.add(pid)
        else:
            self._foreground = pid

    def status(self, pid: int) -> int | None:
        """How an adopted child ended, as waitpid tells; None while it runs."""
        if self._statuses[pid] is None:
            self._reap()
        return self._statuses[pid]

    def wait(self, pid: int) -> int:
        """Wait until an adopted child has ended: its wait status."""
        status = self._statuses[pid]
        if status is None:
            _, status, usage = os.wait4(pid, 0)
            self._note(pid, status, usage)
        return status

    def release(self, pid: int) -> int:
        """End an adopted child and what descends from it: its wait status.

        What a kept one has left to us after its own end goes with the foreground, if there is one. Where
        processes multiply faster than they can be told apart, everything ends.
        """
        self._kept.discard(pid)
        if pid == self._foreground:
            self._foreground = None
        if self._foreground is not None:
            self._end(lambda: self._tree([pid]))
        elif self._kept and any(self._statuses[kept] is None for kept in self._kept):
            self._end(lambda: _parents().keys() - self._tree(self._kept))
        else:
            self.end_everything()
        status = self.wait(pid)
        del self._statuses[pid]
        return status

    def _end(self, doomed: Callable[[], AbstractSet[int]]) -> None:
        calm = 0
        for _ in range(_ROUNDS):
            self._reap()
            pids = doomed()
            calm = 0 if pids else calm + 1
            if calm == _CALM_ROUNDS:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_ROUND_S)
        self.end_everything()

    def end_everything(self) -> None:
        """Kill and reap every process of this namespace but ourselves: our children, and what descends from
        them, for we inherit whose parent ends."""
        if self._reap():
            os.kill(-1, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while True:
                    self._note(*os.wait4(-1, _WALL))

    def interrupt(self, pid: int) -> None:
        """What ^C would do to the process group of `pid`."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGINT)

    def _tree(self, roots: Iterable[int]) -> set[int]:
        """The living of `roots` and of what descends from them."""
        parents = _parents()
        children: dict[int, list[int]] = {}
        for pid, parent in parents.items():
            children.setdefault(parent, []).append(pid)
        found: set[int] = set()
        waiting = list(roots)
        while waiting:
            pid = waiting.pop()
            found.add(pid)
            waiting += children.get(pid, ())
        return found & parents.keys()

    def _reap(self) -> bool:
        """Reap what is dead; False where no child is left."""
        try:
            while True:
                pid, status, usage = os.wait4(-1, _DEAD)
                if pid == 0:
                    return True
                self._note(pid, status, usage)
        except ChildProcessError:
            return False

    def _note(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        self.used_s += usage.ru_utime + usage.ru_stime
        if pid in self._statuses:
            self._statuses[pid] = status


def _parents() -> dict[int, int]:
    """pid: its parent's pid, of all living processes but ourselves; one whose first thread alone is dead
    lives."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                fields = file.read(1024).rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X") or int(fields[_THREADS]) > 1:
                    found[int(name)] = int(fields[1])
    return found
