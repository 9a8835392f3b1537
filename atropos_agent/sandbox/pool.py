"""A bounded supply of fresh sandboxes: each is used by one rollout, then thrown away."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol, Self

from atropos_agent.errors import ConfigError, SandboxError, SandboxUnavailable
from atropos_agent.sandbox.bubblewrap import BubblewrapLauncher
from atropos_agent.sandbox.local import LocalLauncher
from atropos_agent.sandbox.native import NativeLauncher
from atropos_agent.sandbox.protocol import Isolation, Sandbox, SandboxSpec
from atropos_agent.sandbox.remedy import remedies
from atropos_agent.telemetry import Entry, Kind, Phase

_IDLE = 4
_PROBE_S = 1.8


class Slot(Sandbox, Protocol):
    """A sandbox that knows whether it still works."""

    @property
    def alive(self) -> bool:
        """False once the sandbox is known to be lost."""
        ...


class Launcher(Protocol):
    """What makes sandboxes of one kind."""

    @property
    def isolation(self) -> Isolation:
        """What its sandboxes enforce."""
        ...

    async def start(self) -> None:
        """Get ready. Raises SandboxUnavailable."""
        ...

    async def launch(self) -> Slot:
        """A fresh sandbox. Raises SandboxUnavailable or SandboxError."""
        ...

    async def close(self) -> None:
        """Leave nothing behind; sandboxes that were not closed end too."""
        ...


_LAUNCHERS: dict[str, Callable[[SandboxSpec], Launcher]] = {
    "native": NativeLauncher,
    "bubblewrap": BubblewrapLauncher,
    "local": LocalLauncher,
}
_AUTO = ("native", "bubblewrap")


class SandboxPool:
    """Fresh sandboxes, at most `size` in use at once; who waits is served in order.

    `backend` is "auto" (native, then bubblewrap), "native", "bubblewrap" or "local" (no isolation at all). An
    async context manager, bound to the event loop it is entered in; entering raises SandboxUnavailable
    where the isolation cannot be had, leaving ends every process of the pool.
    """

    def __init__(self, backend: str = "auto", spec: SandboxSpec | None = None, size: int = 16) -> None:
        """Raises ConfigError for an unknown backend or a size below 1."""
        if backend != "auto" and backend not in _LAUNCHERS:
            raise ConfigError(f"no sandbox backend {backend!r}; there are: auto, {', '.join(_LAUNCHERS)}")
        if size < 1:
            raise ConfigError(f"sandbox pool size is {size}; it must be at least 1")
        self._backend = backend
        self._spec = spec or SandboxSpec()
        self._size = size
        self._admission = asyncio.Semaphore(size)
        self._idle: deque[Slot] = deque()
        self._in_use: list[Slot] = []
        self._launcher: Launcher | None = None
        self._refill: asyncio.Task[None] | None = None

    @property
    def isolation(self) -> Isolation:
        """What the sandboxes of this pool enforce. Raises SandboxError before the pool is entered."""
        return self._entered().isolation

    async def __aenter__(self) -> Self:
        """Start the first backend that works, proven by one sandbox."""
        refusals: list[str] = []
        names = _AUTO if self._backend == "auto" else (self._backend,)
        for name in names:
            launcher = _LAUNCHERS[name](self._spec)
            try:
                await _try(launcher, self._idle)
            except SandboxUnavailable as error:
                refusals.append(f"{name}: {error}")
                continue
            self._launcher = launcher
            return self
        raise SandboxUnavailable(f"no sandbox to be had. {'; '.join(refusals)}. {remedies(refusals)}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        await self.close()

    async def close(self) -> None:
        """End every sandbox, idle or in use, and everything that served them. Idempotent."""
        launcher, self._launcher = self._launcher, None
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        await asyncio.gather(*(slot.close() for slot in (*self._idle, *self._in_use)))
        self._idle.clear()
        if launcher is not None:
            await launcher.close()

    @contextlib.asynccontextmanager
    async def acquire(self, owner: str = "") -> AsyncIterator[Sandbox]:
        """A sandbox nobody used before, closed when the block ends. `owner` names who holds it in the
        in-flight table. Raises SandboxError."""
        entry = Entry(Kind.SANDBOX, self._backend, owner=owner, phase=Phase.QUEUED, places=self._size)
        with entry:
            async with self._admission:
                entry.enter(Phase.STARTING)
                slot = self._take() or await self._entered().launch()
                entry.enter(Phase.IN_USE)
                self._in_use.append(slot)
                self._start_refill()
                try:
                    yield slot
                finally:
                    self._in_use.remove(slot)
                    await slot.close()

    def _entered(self) -> Launcher:
        if self._launcher is None:
            raise SandboxError("the sandbox pool is not open; use `async with SandboxPool(...) as pool`")
        return self._launcher

    def _take(self) -> Slot | None:
        while self._idle:
            slot = self._idle.popleft()
            if slot.alive:
                return slot
        return None

    def _start_refill(self) -> None:
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        """Keep a few sandboxes ready. A failure here shows again, and is raised, at the next acquire."""
        with contextlib.suppress(SandboxError):
            while len(self._idle) < min(_IDLE, self._size):
                self._idle.append(await self._entered().launch())


async def _try(launcher: Launcher, idle: deque[Slot]) -> None:
    try:
        await launcher.start()
        idle.append(await launcher.launch())
    except BaseException:
        await launcher.close()
        raise


async def probe_backend(backend: str = "auto") -> Isolation:
    """What isolation this machine really gives, proven by one sandbox that ran.

    Raises SandboxUnavailable within two seconds, naming what was probed and the remedy.
    """
    try:
        async with asyncio.timeout(_PROBE_S):
            async with SandboxPool(backend, size=1) as pool:
                async with pool.acquire() as sandbox:
                    await sandbox.exec("true")
                return pool.isolation
    except TimeoutError:
        reason = f"{backend}: no sandbox within {_PROBE_S} s"
        raise SandboxUnavailable(f"no sandbox to be had. {reason}. {remedies([reason])}") from None
