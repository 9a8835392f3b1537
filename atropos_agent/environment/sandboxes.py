"""The sandboxes of an environment, and the placeholder where nothing needs one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from atropos_agent.config import SandboxConfig
from atropos_agent.environment.contract import sandbox_spec
from atropos_agent.errors import ConfigError
from atropos_agent.sandbox import ExecResult, FileEntry, Isolation, Sandbox, SandboxPool, SandboxSpec
from atropos_agent.sandbox.protocol import WORKSPACE, Job, Session, SessionKind


class NoSandbox:
    """What hooks get as sandbox if the environment has none. Every use raises ConfigError."""

    def __init__(self, environment: str) -> None:
        self._environment = environment

    def _refusal(self, method: str) -> ConfigError:
        return ConfigError(
            f"environment {self._environment!r} uses sandbox.{method}, but runs without sandboxes, because "
            "none of its tools needs one; set `needs_sandbox = True` in its class"
        )

    @property
    def isolation(self) -> Isolation:
        """No backend: there is nothing that model-written commands could run in."""
        return Isolation(backend="none", unsafe=False)

    async def exec(
        self,
        command: str,
        *,
        timeout_s: float = 30.0,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> ExecResult:
        """Raises ConfigError."""
        raise self._refusal("exec")

    async def start(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Job:
        """Raises ConfigError."""
        raise self._refusal("start")

    async def session(
        self,
        kind: SessionKind = SessionKind.SHELL,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Session:
        """Raises ConfigError."""
        raise self._refusal("session")

    async def check(
        self, command: str, *, files: Mapping[str, bytes] | None = None, timeout_s: float = 30.0
    ) -> ExecResult:
        """Raises ConfigError."""
        raise self._refusal("check")

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Raises ConfigError."""
        raise self._refusal("read_file")

    async def write_files(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """Raises ConfigError."""
        raise self._refusal("write_files")

    async def snapshot(
        self, *, max_file_bytes: int = 1 << 20, max_total_bytes: int = 32 << 20
    ) -> dict[str, FileEntry]:
        """Raises ConfigError."""
        raise self._refusal("snapshot")

    async def list_files(self, path: str = WORKSPACE) -> dict[str, FileEntry]:
        """Raises ConfigError."""
        raise self._refusal("list_files")

    async def restore(self, entries: Mapping[str, FileEntry]) -> None:
        """Raises ConfigError."""
        raise self._refusal("restore")

    async def archive(self, *, max_total_bytes: int = 128 << 20) -> bytes:
        """Raises ConfigError."""
        raise self._refusal("archive")

    async def extract(self, archive: bytes) -> None:
        """Raises ConfigError."""
        raise self._refusal("extract")

    async def close(self) -> None:
        """There is nothing to close."""


def for_tools(sandbox: Sandbox) -> Sandbox | None:
    """The sandbox for a ToolContext: tools recognise a missing one by None."""
    return None if isinstance(sandbox, NoSandbox) else sandbox


class Sandboxes:
    """A pool of sandboxes, or none where the environment needs none: then nothing is started or probed, and
    `sandbox.slots` only bounds the rollouts in flight. An async context manager."""

    def __init__(self, config: SandboxConfig, *, needed: bool, environment: str) -> None:
        """Raises ConfigError for a config that no backend can serve."""
        self.spec: SandboxSpec = sandbox_spec(config)
        self._absent = NoSandbox(environment)
        self._places = asyncio.Semaphore(config.slots)
        self._pool: SandboxPool | None = None
        if needed:
            self._pool = SandboxPool(
                config.backend,
                self.spec,
                config.slots,
                min_idle=config.min_idle,
                max_uses=config.max_uses,
            )

    @property
    def needed(self) -> bool:
        """False where rollouts run without a sandbox."""
        return self._pool is not None

    @property
    def isolation(self) -> Isolation:
        """What is enforced. Raises SandboxError while the pool is not open."""
        return self._absent.isolation if self._pool is None else self._pool.isolation

    async def __aenter__(self) -> Self:
        """Start the pool, if there is one. Raises SandboxUnavailable."""
        if self._pool is not None:
            await self._pool.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._pool is not None:
            await self._pool.close()

    def acquire(
        self, owner: str = "", adapt: Callable[[SandboxSpec], SandboxSpec] | None = None
    ) -> AbstractAsyncContextManager[Sandbox]:
        """A sandbox for the length of a block, or a NoSandbox. `adapt` turns the spec of the config into the
        wanted one; it is not called where there are no sandboxes. Raises SandboxError."""
        if self._pool is None:
            return self._place()
        wanted = self.spec if adapt is None else adapt(self.spec)
        return self._pool.acquire(owner, spec=None if wanted == self.spec else wanted)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[Sandbox]:
        async with self._places:
            yield self._absent
