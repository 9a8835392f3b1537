"""A sandbox without processes: a dict of files, and scripted results of commands, sessions and jobs."""

import errno
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox.protocol import (
    WORKSPACE,
    ExecResult,
    ExecStatus,
    FileEntry,
    Isolation,
    JobReport,
    SessionKind,
)


def ended(
    status: ExecStatus = ExecStatus.OK,
    stdout: bytes = b"",
    stderr: bytes = b"",
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    stdout_bytes: int | None = None,
    duration_s: float = 0.25,
) -> ExecResult:
    """A result as the sandbox gives it; `stdout_bytes` is set where part of the output was dropped."""
    code = {ExecStatus.OK: 0, ExecStatus.NONZERO: 1}.get(status) if exit_code is None else exit_code
    total = len(stdout) if stdout_bytes is None else stdout_bytes
    return ExecResult(status, code, stdout, stderr, duration_s, signal, total, len(stderr), cpu_s=0.125)


def running() -> JobReport:
    """What a job that goes on reports."""
    return JobReport(None, None, b"", b"", 0.25)


@dataclass
class FakeSession:
    """Answers from `endings` in order, then with success: how a text ended, and whether the session lives."""

    endings: list[tuple[ExecResult, bool]]
    texts: list[str] = field(default_factory=list)
    alive: bool = True
    closed: bool = False

    async def run(self, text: str, *, timeout_s: float = 30.0) -> ExecResult:
        self.texts.append(text)
        result, self.alive = self.endings.pop(0) if self.endings else (ended(), True)
        return result

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakeJob:
    """Has done what `report` says."""

    report: JobReport
    killed: bool = False

    async def poll(self) -> JobReport:
        return self.report

    async def kill(self) -> JobReport:
        self.killed = True
        return self.report


@dataclass
class FakeSandbox:
    """Answers `exec` from `results` in order, then with success; `lost` makes every file access fail.

    All its sessions answer from `endings`; all its jobs run, unless `job` says otherwise.
    """

    results: list[ExecResult] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    lost: bool = False
    commands: list[tuple[str, float]] = field(default_factory=list)
    stdins: list[bytes | None] = field(default_factory=list)
    endings: list[tuple[ExecResult, bool]] = field(default_factory=list)
    sessions: list[tuple[SessionKind, FakeSession]] = field(default_factory=list)
    job: JobReport = field(default_factory=running)
    jobs: list[str] = field(default_factory=list)

    @property
    def isolation(self) -> Isolation:
        return Isolation(backend="fake", unsafe=False)

    async def exec(
        self,
        command: str,
        *,
        timeout_s: float = 30.0,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> ExecResult:
        if self.lost:
            return ended(ExecStatus.SANDBOX_LOST)
        if command.startswith("stat "):
            mode = self.modes.get(posixpath.join(WORKSPACE, command.split()[-1]))
            return ended(stdout=f"{mode:o}\n".encode()) if mode else ended(ExecStatus.NONZERO)
        self.commands.append((command, timeout_s))
        self.stdins.append(stdin)
        return self.results.pop(0) if self.results else ended()

    async def start(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> FakeJob:
        self.jobs.append(command)
        return FakeJob(self.job)

    async def session(
        self,
        kind: SessionKind = SessionKind.SHELL,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> FakeSession:
        self.sessions.append((kind, FakeSession(self.endings)))
        return self.sessions[-1][1]

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        full = self._path(path)
        if any(name.startswith(f"{full}/") for name in self.files):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
        if full not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        if len(self.files[full]) > max_bytes:
            raise OSError(errno.EFBIG, f"{len(self.files[full])} bytes", path)
        return self.files[full]

    async def write_files(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        for path, data in files.items():
            if len(data) > 90_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.files[self._path(path)] = data
            self.modes[self._path(path)] = mode

    async def snapshot(
        self, *, max_file_bytes: int = 1 << 20, max_total_bytes: int = 32 << 20
    ) -> dict[str, FileEntry]:
        return {
            name: FileEntry("file", self.modes.get(name, 0o644), len(data), data)
            for name, data in self.files.items()
        }

    async def close(self) -> None:
        self.lost = True

    def _path(self, path: str) -> str:
        if self.lost:
            raise SandboxLost("the sandbox is gone")
        full = posixpath.normpath(posixpath.join(WORKSPACE, path))
        if not full.startswith(WORKSPACE):
            raise PermissionError(errno.EACCES, f"leads out of {WORKSPACE}", path)
        return full
