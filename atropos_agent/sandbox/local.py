"""No sandbox: commands run as the user who runs the trainer, in a directory of their own. Unsafe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from atropos_agent.errors import SandboxError, SandboxLost
from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.capture import Capture
from atropos_agent.sandbox.inside.files import Workspace
from atropos_agent.sandbox.inside.program import ENVIRONMENT
from atropos_agent.sandbox.protocol import (
    WORKSPACE,
    ExecResult,
    ExecStatus,
    Isolation,
    Job,
    SandboxSpec,
    Session,
    SessionKind,
)
from atropos_agent.sandbox.replies import exit_of, status_of_exit
from atropos_agent.sandbox.slot import check_command, check_files
from atropos_agent.sandbox.workspace import WorkspaceFiles

_PREFIX = "atropos-local-"
_CHUNK = 1 << 16
_TICK_S = 0.01
_DRAIN_S = 0.2


class LocalSandbox(WorkspaceFiles):
    """A temporary directory that plays /workspace for the file methods and for `cwd`.

    Commands see its real path in $PWD and $HOME. Only time and output are limited; a process that leaves its
    session survives.
    """

    def __init__(self, spec: SandboxSpec, isolation: Isolation) -> None:
        self.shows_template: bool = False
        self._spec = spec
        self._isolation = isolation
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._root = self._directory / "workspace"
        self._root.mkdir()
        self._files = Workspace(str(self._root))
        self._turn = asyncio.Lock()
        self._cancelled = threading.Event()

    @property
    def isolation(self) -> Isolation:
        """What is really enforced: hardly anything."""
        return self._isolation

    @property
    def alive(self) -> bool:
        """False once closed."""
        return not self._cancelled.is_set()

    async def exec(
        self,
        command: str,
        *,
        timeout_s: float = 30.0,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> ExecResult:
        """See `Sandbox.exec`."""
        check_command(command, timeout_s=timeout_s, env=env, cwd=cwd)
        async with self._turn:
            if not self.alive:
                return ExecResult(ExecStatus.SANDBOX_LOST, None, b"", b"", 0.0)
            script = self._directory / "command"
            script.write_bytes(command.encode("utf-8", "surrogatepass"))
            environment = {
                **ENVIRONMENT,
                "HOME": str(self._root),
                "TMPDIR": str(self._directory),
                **(env or {}),
            }
            run = _Run(self._spec, self._cancelled, timeout_s, stdin or b"")
            try:
                return await asyncio.to_thread(run.run, script, self._outer(cwd), environment)
            except asyncio.CancelledError:
                self._cancelled.set()
                raise

    def _outer(self, cwd: str) -> str:
        """The host's directory for a directory of the sandbox; other absolute paths mean themselves."""
        inner = os.path.normpath(os.path.join(WORKSPACE, cwd))
        below = inner == WORKSPACE or inner.startswith(WORKSPACE + "/")
        return f"{self._root}{inner[len(WORKSPACE) :]}" if below else inner

    async def start(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Job:
        """Raises SandboxError: there are none."""
        raise SandboxError("the local backend has no background jobs; native and bubblewrap have them")

    async def session(
        self,
        kind: SessionKind = SessionKind.SHELL,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Session:
        """Raises SandboxError: there are none."""
        raise SandboxError("the local backend has no sessions; native and bubblewrap have them")

    async def check(
        self, command: str, *, files: Mapping[str, bytes] | None = None, timeout_s: float = 30.0
    ) -> ExecResult:
        """See `Sandbox.check`; nothing keeps a process that left its session away from it."""
        with tempfile.TemporaryDirectory(dir=self._directory) as place:
            await asyncio.to_thread(_write, Path(place), check_files(files))
            return await self.exec(command, timeout_s=timeout_s, cwd=place)

    async def reset(self) -> bool:
        """False: a directory is never used twice."""
        return False

    async def close(self) -> None:
        """See `Sandbox.close`."""
        self._cancelled.set()
        async with self._turn:
            await asyncio.to_thread(_remove, self._directory)

    async def _ask(self, meta: dict[str, object], payload: bytes) -> frames.Frame:
        if not self.alive:
            raise SandboxLost("the sandbox was closed")
        reader = frames.FrameReader()
        parts = await asyncio.to_thread(self._files.perform, frames.Frame(meta, payload))
        reader.feed(b"".join(parts))
        frame = reader.take()
        assert frame is not None
        return frame

    def _distrust(self, reason: str) -> None:
        raise SandboxLost(reason)


class LocalLauncher:
    """Makes local sandboxes."""

    def __init__(self, spec: SandboxSpec) -> None:
        self._spec = spec

    @property
    def isolation(self) -> Isolation:
        """Nothing but time and output is limited."""
        kinds = "memory processes workspace inodes cpu network syscalls check identity"
        absent = dict.fromkeys(kinds.split(), "none")
        return Isolation("local", unsafe=True, limits={**absent, "output": "host", "wall": "host"})

    async def start(self) -> None:
        """Remove the directories of trainers that were killed before they could."""
        await asyncio.to_thread(_sweep)

    async def launch(self, spec: SandboxSpec | None = None) -> LocalSandbox:
        """A fresh directory."""
        return LocalSandbox(spec or self._spec, self.isolation)

    async def close(self) -> None:
        """Nothing to do; each sandbox removes its own directory."""


class _Run:
    """One command in a session of its own, followed from a thread."""

    def __init__(self, spec: SandboxSpec, cancelled: threading.Event, timeout_s: float, stdin: bytes) -> None:
        self._limit = spec.output_limit_bytes
        self._captures = Capture(spec.output_kept_bytes), Capture(spec.output_kept_bytes)
        self._cancelled = cancelled
        self._timeout_s = timeout_s
        self._stdin = memoryview(stdin)
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, IO[bytes]] = {}

    def run(self, script: Path, directory: str, environment: Mapping[str, str]) -> ExecResult:
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                ["/bin/sh", str(script)],
                cwd=directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            self._captures[1].add(f"sh: cannot start in {directory!r}: {error}\n".encode())
            return self._result(None, 126, started)
        with process:
            try:
                self._register(process)
                status = self._follow(process, started + self._timeout_s)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            self._drain()
            self._selector.close()
            code = process.wait()
        return self._result(status, code, started)

    def _register(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for stream, capture in (
            (process.stdin, None),
            (process.stdout, self._captures[0]),
            (process.stderr, self._captures[1]),
        ):
            os.set_blocking(stream.fileno(), False)
            self._streams[stream.fileno()] = stream
            events = selectors.EVENT_WRITE if capture is None else selectors.EVENT_READ
            self._selector.register(stream, events, capture)

    def _follow(self, process: subprocess.Popen[bytes], deadline: float) -> ExecStatus | None:
        """Until the shell has ended (None) or a limit is hit."""
        while process.poll() is None:
            if self._cancelled.is_set():
                return ExecStatus.KILLED
            if time.monotonic() >= deadline:
                return ExecStatus.TIMEOUT
            if sum(capture.total for capture in self._captures) > self._limit:
                return ExecStatus.OUTPUT_LIMIT
            if self._selector.get_map():
                self._serve(_TICK_S)
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_S)
        return None

    def _drain(self) -> None:
        """What is left in the pipes; a process that escaped its session may hold them open."""
        deadline = time.monotonic() + _DRAIN_S
        while self._selector.get_map() and time.monotonic() < deadline:
            self._serve(_TICK_S)

    def _serve(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            done = self._read(key.fd, key.data) if isinstance(key.data, Capture) else self._write(key.fd)
            if done:
                self._selector.unregister(key.fileobj)
                self._streams[key.fd].close()

    def _read(self, descriptor: int, capture: Capture) -> bool:
        chunk = os.read(descriptor, _CHUNK)
        capture.add(chunk)
        return not chunk

    def _write(self, descriptor: int) -> bool:
        try:
            self._stdin = self._stdin[os.write(descriptor, self._stdin[:_CHUNK]) :]
        except BrokenPipeError:
            return True
        return not self._stdin

    def _result(self, status: ExecStatus | None, code: int, started: float) -> ExecResult:
        output, errors = self._captures
        exit_code, signal_number = exit_of(code)
        return ExecResult(
            status or status_of_exit(exit_code),
            exit_code,
            output.value(),
            errors.value(),
            time.monotonic() - started,
            signal=signal_number,
            stdout_bytes=output.total,
            stderr_bytes=errors.total,
        )


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (directory / name).write_bytes(data)


def _remove(directory: Path) -> None:
    """Remove a tree, also where a command has changed its modes."""
    for place, names, _ in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def _sweep() -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = directory.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            _remove(directory)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
