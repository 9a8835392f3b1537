"""How strong each mechanism is that holds a limit, and whether a sandbox has what was required of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from atropos_agent.errors import ConfigError
from atropos_agent.sandbox.cgroup import probe_memory_groups
from atropos_agent.sandbox.protocol import Isolation

LIMITS = (
    "memory",
    "processes",
    "workspace",
    "inodes",
    "output",
    "wall",
    "cpu",
    "cpus",
    "network",
    "syscalls",
    "identity",
    "check",
)
"""What can be limited, as `Isolation.limits` names it."""


class Strength(StrEnum):
    """HARD: the kernel or the supervisor holds it. WATCHED: looked at now and then. NONE: nothing does."""

    HARD = "hard"
    WATCHED = "watched"
    NONE = "none"


MECHANISMS: Mapping[str, Strength] = {
    "cgroup-v2": Strength.HARD,
    "cgroup-v1": Strength.HARD,
    "rlimit": Strength.HARD,
    "tmpfs": Strength.HARD,
    "supervisor": Strength.HARD,
    "namespace": Strength.HARD,
    "seccomp": Strength.HARD,
    "landlock": Strength.HARD,
    "uid-per-slot": Strength.HARD,
    "rlimit and watcher": Strength.WATCHED,
    "watcher": Strength.WATCHED,
    "host": Strength.WATCHED,
    "uid-shared": Strength.NONE,
    "rlimit-shared": Strength.NONE,
    "none": Strength.NONE,
}
"""Every mechanism that `Isolation.limits` names.

`rlimit and watcher` holds each process, and looks at their sum; `host` ends what does not hide from it;
`uid-shared` and `rlimit-shared` do not tell slots apart.
"""

MEMORY_CURE = (
    "for a hard memory limit run as root, or where a cgroup with the memory controller is delegated to your "
    "user (a systemd user session with cgroup v2)"
)


def strength(mechanism: str) -> Strength:
    """How strong `mechanism` is; one that is not known counts as none."""
    return MECHANISMS.get(mechanism, Strength.NONE)


def check_requirements(require: Mapping[str, str]) -> None:
    """Raises ConfigError for a limit or a mechanism that does not exist."""
    for limit, required in require.items():
        if limit not in LIMITS:
            raise ConfigError(f"sandbox.require: no limit {limit!r}; there are: {', '.join(LIMITS)}")
        if required != Strength.HARD and required not in MECHANISMS:
            known = ", ".join((Strength.HARD, *MECHANISMS))
            raise ConfigError(f"sandbox.require.{limit}: no mechanism {required!r}; there are: {known}")


def in_force(isolation: Isolation, limit: str) -> str:
    """The mechanism that holds `limit`, "none" where nothing does."""
    return isolation.limits.get(limit, "none")


def unmet(require: Mapping[str, str], isolation: Isolation) -> dict[str, str]:
    """The part of `require` that `isolation` does not hold."""
    return {
        limit: required
        for limit, required in require.items()
        if not _holds(required, in_force(isolation, limit))
    }


def explained(missing: Mapping[str, str], isolation: Isolation) -> str:
    """What is in force in place of what is required; for memory, with each cgroup that was probed."""
    unmet = [
        f"{limit} is held by {in_force(isolation, limit)!r}, but {required!r} is required"
        for limit, required in missing.items()
    ]
    probed = "; ".join(probe_memory_groups().refusals) if "memory" in missing else ""
    return "; ".join(unmet) + (f" ({probed})" if probed else "")


def cures(require: Mapping[str, str]) -> str:
    """What to do where requirements are not met."""
    keys = ", ".join(f"sandbox.require.{limit}" for limit in require)
    other = f"choose another --sandbox.backend, or require less ({keys})"
    return f"{MEMORY_CURE}; or {other}" if "memory" in require else other


def _holds(required: str, mechanism: str) -> bool:
    return strength(mechanism) is Strength.HARD if required == Strength.HARD else mechanism == required
