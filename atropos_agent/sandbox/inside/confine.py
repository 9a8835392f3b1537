"""What the supervisor gives up before it serves: limits, capabilities, system calls, being looked at."""

from __future__ import annotations

import resource
import signal

from atropos_agent.sandbox.inside import linux, seccomp

IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that the supervisor ignores, and what it starts must not."""
_OPEN_FILES = 1024
_LOCKED_BYTES = 64 << 10


def confine(*, processes: int | None, file_bytes: int, unseen_memory: bool) -> None:
    """Irrevocable, inherited by every command. `processes` is None where a cgroup counts them.

    To be called after the namespaces exist: an RLIMIT_NPROC set earlier counts all slots of the uid together.
    """
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_MEMLOCK, _LOCKED_BYTES),
        (resource.RLIMIT_NPROC, processes),
    ):
        if value is None:
            continue
        hard = resource.getrlimit(name)[1]
        capped = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (capped, capped))
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.prepared(unseen_memory=unseen_memory).install()
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def ignore_signals_from_inside() -> None:
    """Default dispositions make pid 1 immune to its own namespace; an ignored one makes a write fail."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except OSError:  # numbers that the C library keeps to itself
            continue
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
