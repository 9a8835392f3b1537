"""What a sandbox is to everything above it: one workspace, one command at a time, bytes in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

WORKSPACE = "/workspace"


class ExecStatus(StrEnum):
    """How a command ended. All but SANDBOX_LOST are the command's own doing."""

    OK = "ok"
    NONZERO = "nonzero"
    TIMEOUT = "timeout"
    OOM = "oom"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    SANDBOX_LOST = "sandbox_lost"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What is asked of a sandbox. Sizes in bytes; `memory_bytes` covers all processes of a slot.

    `processes` counts threads too. `readonly_binds` are absolute host paths shown read-only inside, at the
    same path.
    """

    workspace_bytes: int = 256 << 20
    workspace_inodes: int = 50_000
    memory_bytes: int = 1 << 30
    processes: int = 256
    file_bytes: int = 512 << 20
    output_kept_bytes: int = 64 << 10
    output_limit_bytes: int = 64 << 20
    readonly_binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is really in force, as recorded with each rollout.

    `backend` is native, bubblewrap or local; `unsafe` is True where model-written commands can reach the
    host; `limits` names the mechanism behind each limit, e.g. {"memory": "cgroup-v1", "processes": "rlimit"}.
    """

    backend: str
    unsafe: bool
    limits: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Output of one command. Each stream keeps its head and tail within `output_kept_bytes`;
    `stdout_bytes` / `stderr_bytes` are the totals before truncation, and the gap lies after the first half of
    what is kept, rounded up. Partial output is kept on timeout.

    `exit_code` is None where the command did not exit by itself; `signal` is then what killed it.
    """

    status: ExecStatus
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    duration_s: float
    signal: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0

    @property
    def truncated(self) -> bool:
        """True where part of the output was dropped."""
        return self.stdout_bytes > len(self.stdout) or self.stderr_bytes > len(self.stderr)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One path of the workspace as lstat sees it. `kind` is file, dir, symlink or other; `data` holds the
    bytes of a regular file, cut at the snapshot's budget (`size` is the true size); `target` a symlink's;
    `links` the number of names (hard links) that the file has."""

    kind: str
    mode: int
    size: int
    data: bytes = b""
    target: str = ""
    links: int = 1


@runtime_checkable
class Sandbox(Protocol):
    """A workspace in which one command runs at a time.

    After each command every process it started is dead. Nothing is ever retried. Relative paths start at
    `/workspace`; file methods refuse to leave it and never follow a symlink out of it.
    """

    @property
    def isolation(self) -> Isolation:
        """What is really enforced."""
        ...

    async def exec(
        self,
        command: str,
        *,
        timeout_s: float = 30.0,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> ExecResult:
        """Run `command` with a fresh `/bin/sh`. Raises SandboxError for a NUL byte or a bad cwd type;
        a lost sandbox is the status SANDBOX_LOST, with what was read so far."""
        ...

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Bytes of a regular file. Raises FileNotFoundError, IsADirectoryError, PermissionError, OSError
        (too large, not regular), SandboxLost."""
        ...

    async def write_files(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """Write each file whole, parents created. Raises PermissionError, OSError (disk full),
        SandboxLost."""
        ...

    async def snapshot(
        self, *, max_file_bytes: int = 1 << 20, max_total_bytes: int = 32 << 20
    ) -> dict[str, FileEntry]:
        """Every path under the workspace, relative, without following symlinks. Raises SandboxLost."""
        ...

    async def close(self) -> None:
        """End the sandbox and everything in it. Idempotent."""
        ...
