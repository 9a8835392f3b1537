"""A sandbox without processes: a dict of files, and scripted results of commands."""

import errno
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox.protocol import WORKSPACE, ExecResult, ExecStatus, FileEntry, Isolation


def ended(
    status: ExecStatus = ExecStatus.OK,
    stdout: bytes = b"",
    stderr: bytes = b"",
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    stdout_bytes: int | None = None,
) -> ExecResult:
    """A result as the sandbox gives it; `stdout_bytes` is set where part of the output was dropped."""
    code = {ExecStatus.OK: 0, ExecStatus.NONZERO: 1}.get(status) if exit_code is None else exit_code
    total = len(stdout) if stdout_bytes is None else stdout_bytes
    return ExecResult(status, code, stdout, stderr, 0.25, signal, total, len(stderr))


@dataclass
class FakeSandbox:
    """Answers `exec` from `results` in order, then with success; `lost` makes every file access fail."""

    results: list[ExecResult] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    lost: bool = False
    commands: list[tuple[str, float]] = field(default_factory=list)

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
        return self.results.pop(0) if self.results else ended()

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
