"""The host user ids of slots: where the trainer is root, each slot has an id that no account uses."""

from __future__ import annotations

import functools
import os
from collections import deque
from pathlib import Path

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox.inside import linux
from atropos_agent.sandbox.inside.reaper import UID_PER_SLOT

_BLOCK = 4096
# systemd's table of uids has no entry in either range.
_MANY = range(1_880_000_000, 2_140_000_000)
_FEW = range(60_578, 61_184)
_SPARE = (64_055, 60_055, 1_055)
_NEEDED = (linux.CAP_KILL, linux.CAP_SETGID, linux.CAP_SETUID)


class Identities:
    """A supply of uids, each with the gid of the same number.

    `base` is who our helper processes are, and slots too where there is one uid for all of them; -1 is
    ourselves.
    """

    def __init__(self, base: int, of_slots: range = range(0)) -> None:
        self.base = base
        self._shared = not of_slots
        self._free = deque(of_slots)

    @property
    def mechanism(self) -> str:
        """How records name it."""
        return "uid-shared" if self._shared else UID_PER_SLOT

    def __len__(self) -> int:
        """How many uids are free."""
        return len(self._free)

    def take(self) -> int:
        """The uid of one more slot, to be given back once nothing of the slot is left.

        Raises SandboxError where each is some slot's already.
        """
        if self._shared:
            return self.base
        try:
            return self._free.popleft()
        except IndexError:
            raise SandboxError("every uid set aside for slots is in use: close some sandboxes") from None

    def give_back(self, uid: int) -> None:
        """Make `uid` free again; of the free ones it is taken last."""
        if not self._shared:
            self._free.append(uid)


def identities() -> Identities:
    """Those of this process, shared by all its pools.

    Raises SandboxUnavailable where we are root and no other uid can be taken: as the host's uid 0 a sandbox
    could write kernel settings.
    """
    return _identities_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _identities_of(pid: int) -> Identities:
    if os.geteuid() != 0:
        return Identities(-1)
    if _may_change_ids():
        for candidates in (_block(pid), _FEW):
            if _exist(candidates):
                return Identities(candidates[0], candidates[1:])
    for uid in _SPARE:
        if _exist(range(uid, uid + 1)):
            return Identities(uid)
    raise SandboxUnavailable(
        "running as root in a user namespace without other uids: run as an ordinary user"
    )


def _block(pid: int) -> range:
    """A different block for each process of a pid namespace, and most likely for those of two namespaces."""
    blocks = len(_MANY) // _BLOCK
    namespace = os.stat("/proc/self/ns/pid").st_ino
    first = _MANY[(pid + namespace * 7919) % blocks * _BLOCK]
    return range(first, first + _BLOCK)


def _may_change_ids() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split(None, 1)[0], 16)
    return all(effective >> capability & 1 for capability in _NEEDED)


def _exist(ids: range) -> bool:
    """True where this user namespace has all of them, as uids and as gids."""
    return all(_mapped(ids, Path("/proc/self", name).read_text()) for name in ("uid_map", "gid_map"))


def _mapped(ids: range, table: str) -> bool:
    extents = [line.split() for line in table.splitlines()]
    return any(int(start) <= ids[0] and ids[-1] < int(start) + int(length) for start, _, length in extents)
