"""What a sandbox is to everything above it: one workspace, one command at a time, bytes in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

WORKSPACE = "/workspace"


class ExecStatus(StrEnum):
    """How a command ended. All but SANDBOX_LOST are the command's own doing.

    TIMEOUT is also what exhausting its CPU time is called. DISK_FULL is a failure (not exit code 0) that
    left the workspace, or /tmp, without a free block or inode.
    """

    OK = "ok"
    NONZERO = "nonzero"
    TIMEOUT = "timeout"
    OOM = "oom"
    OUTPUT_LIMIT = "output_limit"
    DISK_FULL = "disk_full"
    KILLED = "killed"
    SANDBOX_LOST = "sandbox_lost"


class SessionKind(StrEnum):
    """What takes the texts of a session."""

    SHELL = "shell"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What is asked of a sandbox. Sizes in bytes; `memory_bytes` covers all processes of a slot.

    `processes` counts threads too. `cpu_s` is the CPU time that a command may use with all it starts.
    `image` is what docker and podman run, and nothing else can; `cpus`, how many CPUs a slot may keep busy,
    is held by them only. `readonly_binds` are absolute host paths shown read-only inside, at the same path.
    The workspace starts with the content of the host directory `template`, which never changes. `require`
    maps a limit, as `Isolation.limits` names it, to "hard" or to the one mechanism that may hold it; a
    backend that does not is refused.
    """

    workspace_bytes: int = 256 << 20
    workspace_inodes: int = 50_000
    memory_bytes: int = 1 << 30
    processes: int = 256
    cpu_s: float | None = None
    file_bytes: int = 512 << 20
    output_kept_bytes: int = 64 << 10
    output_limit_bytes: int = 64 << 20
    readonly_binds: tuple[str, ...] = ()
    image: str = ""
    cpus: float | None = None
    template: str = ""
    require: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is really in force, as recorded with each rollout.

    `backend` is native, bubblewrap, docker, podman or local; `unsafe` is True where model-written commands
    can reach the host; `limits` names the mechanism behind each limit, e.g. {"memory": "cgroup-v1",
    "processes": "rlimit"}.
    """

    backend: str
    unsafe: bool
    limits: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Output of one command. Each stream keeps its head and tail within `output_kept_bytes`;
    `stdout_bytes` / `stderr_bytes` are the totals before truncation, and the gap lies after the first half of
    what is kept, rounded up. Partial output is kept on timeout.

    `exit_code` is None where the command did not exit by itself; `signal` is then what killed it. `cpu_s` is
    user and system time of everything that ended with it, None where that is not known.
    """

    status: ExecStatus
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    duration_s: float
    signal: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    cpu_s: float | None = None

    @property
    def truncated(self) -> bool:
        """True where part of the output was dropped."""
        return self.stdout_bytes > len(self.stdout) or self.stderr_bytes > len(self.stderr)


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a background job has done so far; output as in `ExecResult`. `status` is None while it runs."""

    status: ExecStatus | None
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    duration_s: float
    signal: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0

    @property
    def running(self) -> bool:
        """True until the job itself has ended."""
        return self.status is None


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


class Job(Protocol):
    """A command that runs in the background, with everything it starts."""

    async def poll(self) -> JobReport:
        """What it has done so far. Raises SandboxLost."""
        ...

    async def kill(self) -> JobReport:
        """End it: its last report. Does nothing where it has ended. Raises SandboxLost."""
        ...


class Session(Protocol):
    """An interpreter that keeps its state from text to text: directory, variables, background jobs."""

    @property
    def alive(self) -> bool:
        """False once the interpreter has ended; another session can be opened."""
        ...

    async def run(self, text: str, *, timeout_s: float = 30.0) -> ExecResult:
        """Run `text` and wait until it is done; its exit code is 0, or for python 1 after an exception.

        At the timeout the interpreter is interrupted as by ^C, and ended where that does not help. Output
        of background jobs since the last text is part of the result. Where the interpreter has ended,
        `alive` tells, and the result how. Raises SandboxError for a NUL byte.
        """
        ...

    async def close(self) -> None:
        """End the interpreter and everything it started. Idempotent."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """A workspace in which one command runs at a time, beside jobs and sessions.

    When a command ends, every process it started dies; jobs and sessions live on until they are ended, or
    the sandbox is. Nothing is ever retried. Relative paths start at `/workspace`; file methods refuse to
    leave it and never follow a symlink out of it.
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

    async def start(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Job:
        """Run `command` with a fresh `/bin/sh` in the background. Raises SandboxError for what no shell
        could be given and where the backend has no jobs (local), SandboxLost."""
        ...

    async def session(
        self,
        kind: SessionKind = SessionKind.SHELL,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Session:
        """Open a session: a shell (bash if there is one) or a python3. Raises SandboxError where the backend
        has none (local), SandboxLost."""
        ...

    async def check(
        self, command: str, *, files: Mapping[str, bytes] | None = None, timeout_s: float = 30.0
    ) -> ExecResult:
        """Run `command` to score what was done, out of reach of the processes that did it.

        First everything that was started is ended, sessions and jobs too, and /tmp and /dev/shm are emptied.
        `files` (plain names) are written to a new directory in which `command` starts with a clean
        environment. Where `isolation.limits["check"]` says landlock, nothing can be changed meanwhile but
        what lies in $TMPDIR: not the workspace, not these files. Raises SandboxError.
        """
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

    async def list_files(self, path: str = WORKSPACE) -> dict[str, FileEntry]:
        """What lies in one directory, without content. Raises FileNotFoundError, NotADirectoryError,
        PermissionError, OSError, SandboxLost."""
        ...

    async def restore(self, entries: Mapping[str, FileEntry]) -> None:
        """Make the workspace what a snapshot shows, and nothing else; hard links become copies. Raises
        OSError if a content is not whole or an entry is not a file, directory or symlink, SandboxLost."""
        ...

    async def archive(self, *, max_total_bytes: int = 128 << 20) -> bytes:
        """The workspace as an uncompressed tar. Raises OSError where it is larger, SandboxLost."""
        ...

    async def extract(self, archive: bytes) -> None:
        """Write the files, directories and links of an uncompressed tar into the workspace.

        Raises SandboxError if it is not such a tar, or has a member outside the workspace, a device or a
        pipe (nothing is written then); OSError (disk full), SandboxLost.
        """
        ...

    async def close(self) -> None:
        """End the sandbox and everything in it. Idempotent."""
        ...
