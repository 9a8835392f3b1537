"""A sandbox whose pid 1 is our supervisor, seen from the host. How it came to be is its launcher's affair."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from atropos_agent.errors import SandboxError, SandboxLost
from atropos_agent.sandbox.background import SlotJob, SlotSession, check_timeout
from atropos_agent.sandbox.cgroup import MemoryGroups, SlotMemory
from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.report import Report
from atropos_agent.sandbox.link import Link
from atropos_agent.sandbox.protocol import (
    WORKSPACE,
    ExecResult,
    ExecStatus,
    Isolation,
    SandboxSpec,
    SessionKind,
)
from atropos_agent.sandbox.replies import report_of, result_of
from atropos_agent.sandbox.workspace import WorkspaceFiles

GRACE_S = 2.0
_FILES_S = 30.0
_GONE_S = 5.0


@dataclass(slots=True)
class SlotProcess:
    """The processes behind a slot: how to end them by force, and the event that says they are reaped."""

    kill: Callable[[], None]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    groups: MemoryGroups | None = None
    memory: SlotMemory | None = None
    _kills: int = 0

    def memory_kills(self) -> int:
        """How often the kernel killed a process of the slot for want of memory; the last known number once
        the slot is gone."""
        if self.memory is not None and not self.gone.is_set():
            with contextlib.suppress(OSError):
                self._kills = self.memory.kills()
        return self._kills

    def end(self) -> None:
        """Kill what is left, if anything is."""
        if not self.gone.is_set():
            with contextlib.suppress(SandboxError):
                self.kill()

    def ended(self) -> None:
        """To be called once the slot's pid 1 is reaped: nothing of it is left but its empty cgroup."""
        self.memory_kills()
        if self.groups is not None and self.memory is not None:
            self.groups.discard(self.memory)
        self.gone.set()


def configuration(spec: SandboxSpec, *, watch_memory: bool, overlay: bool = False) -> dict[str, object]:
    """The first frame to a supervisor. With `overlay` it is to show the template under the workspace."""
    return {
        "workspace_bytes": spec.workspace_bytes,
        "workspace_inodes": spec.workspace_inodes,
        "memory_bytes": spec.memory_bytes,
        "watch_memory": watch_memory,
        "processes": spec.processes,
        "file_bytes": spec.file_bytes,
        "output_kept": spec.output_kept_bytes,
        "output_limit": spec.output_limit_bytes,
        "cpu_s": spec.cpu_s,
        "binds": resolved_binds(spec),
        "template": str(Path(spec.template).resolve()) if overlay else "",
    }


def resolved_binds(spec: SandboxSpec) -> list[tuple[str, str]]:
    """(what to show, where) of each read-only bind, links in the former resolved."""
    return [(str(Path(path).resolve()), path) for path in spec.readonly_binds]


class SupervisedSandbox(WorkspaceFiles):
    """A `Sandbox` over a link to a supervisor that has said it is ready."""

    def __init__(
        self,
        link: Link,
        process: SlotProcess,
        spec: SandboxSpec,
        isolation: Isolation,
        *,
        shows_template: bool = False,
    ) -> None:
        self.shows_template: bool = shows_template
        self._link = link
        self._process = process
        self._spec = spec
        self._isolation = isolation
        self._turn = asyncio.Lock()
        self._memory_kills = 0
        self._keeps = False

    @property
    def isolation(self) -> Isolation:
        """What is really enforced."""
        return self._isolation

    @property
    def alive(self) -> bool:
        """False once the sandbox is known to be lost."""
        return self._link.alive

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
        meta, payload = _described(command, rest=stdin, env=env, cwd=cwd)
        meta |= {"op": "exec", "timeout_s": timeout_s}
        return (await self.run(meta, payload, timeout_s=timeout_s))[0]

    async def start(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> SlotJob:
        """See `Sandbox.start`."""
        check_command(command, timeout_s=1.0, env=env, cwd=cwd)
        meta, payload = _described(command, rest=stdin, env=env, cwd=cwd)
        number = await self._numbered({**meta, "op": "start"}, payload, "job")
        return SlotJob(self, number, self._spec.output_kept_bytes)

    async def session(
        self,
        kind: SessionKind = SessionKind.SHELL,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> SlotSession:
        """See `Sandbox.session`."""
        check_command("", timeout_s=1.0, env=env, cwd=cwd)
        meta, payload = _described("", env=env, cwd=cwd)
        number = await self._numbered({**meta, "op": "open_session", "kind": kind.value}, payload, "session")
        if not number:
            raise SandboxError("too many sessions are open in this sandbox; close some first")
        return SlotSession(self, number)

    async def check(
        self, command: str, *, files: Mapping[str, bytes] | None = None, timeout_s: float = 30.0
    ) -> ExecResult:
        """See `Sandbox.check`."""
        check_command(command, timeout_s=timeout_s, env=None, cwd=WORKSPACE)
        contents = check_files(files)
        meta, payload = _described(command, rest=b"".join(contents.values()))
        meta |= {"op": "check", "timeout_s": timeout_s}
        meta["files"] = [[name, len(data)] for name, data in contents.items()]
        return (await self.run(meta, payload, timeout_s=timeout_s))[0]

    async def reset(self) -> bool:
        """End everything and empty the sandbox; False where it is not as good as new. Raises SandboxLost."""
        return not self._spec.template and (await self.ask({"op": "reset"})).meta.get("clean") is True

    async def run(
        self, meta: dict[str, object], payload: bytes, *, timeout_s: float
    ) -> tuple[ExecResult, frames.Frame | None]:
        """How a command ended, with the reply that says so, None where the sandbox was lost."""
        async with self._turn:
            started = time.monotonic()
            if self._keeps:
                self._look_for_kills()  # those between commands are not this one's
            try:
                frame = await self._link.request(meta, payload, timeout_s=timeout_s + GRACE_S)
                said = report_of(frame, self._spec.output_kept_bytes)
                result, struck = result_of(said), self.struck(said)
            except (SandboxLost, frames.FrameError, OSError) as error:
                self._distrust(str(error))
                status = ExecStatus.OOM if self._look_for_kills() else ExecStatus.SANDBOX_LOST
                return ExecResult(status, None, b"", b"", time.monotonic() - started), None
        # What was struck may have been a job or a session: a success beside them stays one.
        spared = (ExecStatus.TIMEOUT, ExecStatus.OUTPUT_LIMIT, *([ExecStatus.OK] if self._keeps else []))
        if struck and result.status not in spared:
            result = replace(result, status=ExecStatus.OOM)
        return result, frame

    async def ask(self, meta: dict[str, object]) -> frames.Frame:
        """The answer to a request that takes no time. Raises SandboxLost."""
        return await self._ask(meta, b"")

    def struck(self, said: Report) -> bool:
        """True where the kernel killed something here for want of memory since that was last asked, as we see
        it or, where we cannot, as the slot says. Raises OSError."""
        if self._process.memory is None:
            return said.memory_kills > 0
        return self._look_for_kills()

    def lost(self, error: Exception) -> SandboxLost:
        """Give the slot up because of an answer that makes no sense."""
        self._distrust(str(error))
        return SandboxLost(str(error))

    async def close(self) -> None:
        """See `Sandbox.close`."""
        self._link.abandon("the sandbox was closed")
        try:
            async with asyncio.timeout(GRACE_S):
                await self._process.gone.wait()
        except TimeoutError:
            self._process.end()
            with contextlib.suppress(TimeoutError):  # the launcher waits once more
                async with asyncio.timeout(_GONE_S):
                    await self._process.gone.wait()

    async def _ask(self, meta: dict[str, object], payload: bytes) -> frames.Frame:
        async with self._turn:
            return await self._link.request(
                {**meta, "timeout_s": _FILES_S}, payload, timeout_s=_FILES_S + GRACE_S
            )

    def _look_for_kills(self) -> bool:
        """True where the kernel killed something of the slot's group since we last looked."""
        before, self._memory_kills = self._memory_kills, self._process.memory_kills()
        return self._memory_kills > before

    async def _numbered(self, meta: dict[str, object], payload: bytes, key: str) -> int:
        self._keeps = True
        frame = await self._ask(meta, payload)
        try:
            return frames.integer(frame.meta, key)
        except frames.FrameError as error:
            raise self.lost(error) from error

    def _distrust(self, reason: str) -> None:
        self._link.abandon(reason)
        self._process.end()


def _described(
    command: str,
    *,
    rest: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str = WORKSPACE,
) -> tuple[dict[str, object], bytes]:
    """A program as a request to the supervisor, and the script with the `rest` that follows it. A key that
    is left out has its default."""
    script = command.encode("utf-8", "surrogatepass")
    meta: dict[str, object] = {}
    if cwd != WORKSPACE:
        meta["cwd"] = posixpath.join(WORKSPACE, cwd)
    if env:
        meta["env"] = dict(env)
    if rest is None:
        return meta, script
    meta["script"] = len(script)
    return meta, script + rest


def check_command(command: str, *, timeout_s: float, env: Mapping[str, str] | None, cwd: str) -> None:
    """Raises SandboxError for what no shell could be given."""
    if "\0" in command:
        raise SandboxError(
            f"command has a NUL byte at {command.index(chr(0))}; a shell script cannot hold one"
        )
    if not isinstance(cwd, str) or "\0" in cwd:
        raise SandboxError(f"cwd is {cwd!r:.80}; it must be a path without NUL bytes")
    check_timeout(timeout_s)
    for name, value in (env or {}).items():
        if not name or "=" in name or "\0" in name + value:
            raise SandboxError(f"environment entry {name!r:.80} has an empty name, '=' in it, or a NUL byte")


def check_files(files: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
    """The files of a check. Raises SandboxError for a name that is not a plain one."""
    for name in files or {}:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise SandboxError(f"a file of a check is called {name!r:.80}; it must be a plain name")
    return files or {}
