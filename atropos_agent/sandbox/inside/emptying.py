"""Removing everything below a directory, whatever it is, however deep, and whatever its modes are.

Nothing else may run meanwhile.
"""

from __future__ import annotations

import os
import stat

from atropos_agent.sandbox.inside.grounds import Grounds

TEMPORARY = ("/tmp", "/dev/shm")  # noqa: S108 the slot's own
_QUEUES = "/dev/mqueue"  # containers have it mounted
_SYSV = ("shm", "msg", "sem")


def quiet(grounds: Grounds) -> None:
    """End everything that runs in the slot and remove all that lies outside the workspace. Raises OSError."""
    grounds.end_kept("killed")
    grounds.family.end_everything()
    for directory in (*TEMPORARY, *((_QUEUES,) if os.path.isdir(_QUEUES) else ())):
        empty(directory)


def renew(grounds: Grounds) -> bool:
    """Make the slot as good as new; False where something is left that cannot be removed. Raises OSError."""
    quiet(grounds)
    empty(grounds.limits.workspace)
    return all(_lines(f"/proc/sysvipc/{name}") <= 1 for name in _SYSV)


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return file.read().count(b"\n")


def empty(directory: str) -> None:
    """Remove what is in `directory`. Raises OSError.

    One step down or up at a time, because a path may be longer than the kernel accepts.
    """
    os.chdir(directory)
    try:
        waiting = [_directories_after_removing_the_rest()]
        names: list[str] = []
        while True:
            if waiting[-1]:
                names.append(waiting[-1].pop())
                os.chmod(names[-1], stat.S_IRWXU)
                os.chdir(names[-1])
                waiting.append(_directories_after_removing_the_rest())
            elif not names:
                return
            else:
                waiting.pop()
                os.chdir("..")
                os.rmdir(names.pop())
    finally:
        os.chdir("/")


def _directories_after_removing_the_rest() -> list[str]:
    directories: list[str] = []
    with os.scandir(".") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name)
    return directories
