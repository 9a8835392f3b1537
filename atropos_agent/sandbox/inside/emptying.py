"""Removes everything below a directory, of any type, depth and mode.

Nothing else may run meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from atropos_agent.sandbox.inside import linux
from atropos_agent.sandbox.inside.grounds import Grounds

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def quiet(grounds: Grounds) -> None:
    """End everything that runs in the slot and remove all that lies outside the workspace. Raises OSError."""
    grounds.end_kept("killed")
    grounds.family.end_everything()
    for directory, mode in grounds.modes.items():
        _restore(directory, mode)
        if directory != grounds.limits.workspace:
            empty(directory)
    for remove, number in _ipc_objects():
        remove(number)


def renew(grounds: Grounds) -> bool:
    """Make the slot as good as new; False where something is left that cannot be removed. Raises OSError."""
    quiet(grounds)
    empty(grounds.limits.workspace)
    return not _ipc_objects()


def _restore(directory: str, mode: int) -> None:
    """Give a directory its former mode and no attributes. One that is not ours was not changed."""
    with contextlib.suppress(PermissionError):
        os.chmod(directory, mode)
        with contextlib.suppress(OSError):
            for name in os.listxattr(directory):
                os.removexattr(directory, name)


def _ipc_objects() -> list[tuple[Callable[[int], None], int]]:
    """(how to remove it, its number) of each System V object of the namespace: they outlive processes."""
    found: list[tuple[Callable[[int], None], int]] = []
    for kind, remove in linux.REMOVE_IPC.items():
        with contextlib.suppress(FileNotFoundError), open(f"/proc/sysvipc/{kind}", "rb") as table:
            found += [(remove, int(line.split()[1])) for line in list(table)[1:]]
    return found


def empty(directory: str) -> None:
    """Remove what is in `directory`. Raises OSError.

    One step down or up at a time, because a path may be longer than the kernel accepts.
    """
    here = os.open(directory, _DIRECTORY)
    try:
        waiting = [_directories_after_removing_the_rest(here)]
        names: list[str] = []
        while waiting[-1] or names:
            if waiting[-1]:
                names.append(waiting[-1].pop())
                os.chmod(names[-1], stat.S_IRWXU, dir_fd=here)
                here = _moved(here, names[-1])
                waiting.append(_directories_after_removing_the_rest(here))
            else:
                waiting.pop()
                here = _moved(here, "..")
                os.rmdir(names.pop(), dir_fd=here)
    finally:
        os.close(here)


def _moved(here: int, name: str) -> int:
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _directories_after_removing_the_rest(here: int) -> list[str]:
    directories: list[str] = []
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=here)
    return directories
