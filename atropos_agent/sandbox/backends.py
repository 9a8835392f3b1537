"""The kinds of sandboxes, and the first of them that this machine really gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from atropos_agent.errors import ConfigError, SandboxError, SandboxUnavailable
from atropos_agent.sandbox.bubblewrap import BubblewrapLauncher
from atropos_agent.sandbox.container import CONTAINERS, ContainerLauncher, check_image
from atropos_agent.sandbox.local import LocalLauncher
from atropos_agent.sandbox.native import NativeLauncher
from atropos_agent.sandbox.protocol import Isolation, Sandbox, SandboxSpec
from atropos_agent.sandbox.remedy import remedies
from atropos_agent.sandbox.requirements import check_requirements, cures, explained, unmet
from atropos_agent.sandbox.template import check_template, copy_template

_PROBE_S = 1.8


class Slot(Sandbox, Protocol):
    """A sandbox that knows whether it still works, and can be emptied for another use."""

    @property
    def alive(self) -> bool:
        """False once the sandbox is known to be lost."""
        ...

    @property
    def shows_template(self) -> bool:
        """True where the workspace started with the template of its spec."""
        ...

    async def reset(self) -> bool:
        """End everything in it and empty it; True where it is as good as new. Raises SandboxError."""
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

    async def launch(self, spec: SandboxSpec | None = None) -> Slot:
        """A fresh sandbox, of the launcher's own spec or another. Raises SandboxError, OSError."""
        ...

    async def close(self) -> None:
        """Leave nothing behind; sandboxes that were not closed end too."""
        ...


BACKENDS: dict[str, Callable[[SandboxSpec], Launcher]] = {
    "native": NativeLauncher,
    "bubblewrap": BubblewrapLauncher,
    "docker": ContainerLauncher.docker,
    "podman": ContainerLauncher.podman,
    "local": LocalLauncher,
}
AUTO = ("native", "bubblewrap")
"""What "auto" tries, in order."""


def check_backend(backend: str) -> None:
    """Raises ConfigError for a name that is none."""
    if backend != "auto" and backend not in BACKENDS:
        raise ConfigError(f"no sandbox backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")


async def launch(launcher: Launcher, spec: SandboxSpec) -> Slot:
    """A fresh sandbox whose workspace holds what its spec says. Raises SandboxError, OSError."""
    check_template(spec)
    slot = await launcher.launch(spec)
    if spec.template and not slot.shows_template:
        try:
            await copy_template(slot, spec)
        except BaseException:
            await slot.close()
            raise
    return slot


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a backend cannot be used, and the cure where the text does not end with it."""

    backend: str
    text: str
    cure: str


async def attempt(backend: str, spec: SandboxSpec) -> tuple[Launcher, Slot] | Refusal:
    """A backend that works and holds what `spec` requires, proven by a first sandbox; or why not."""
    async with AsyncExitStack() as undone:
        launcher = BACKENDS[backend](spec)
        undone.push_async_callback(launcher.close)
        try:
            await launcher.start()
            slot = await launch(launcher, spec)
        except (SandboxError, OSError) as error:
            return Refusal(backend, str(error), "" if backend in CONTAINERS else remedies([str(error)]))
        undone.push_async_callback(slot.close)
        if missing := unmet(spec.require, slot.isolation):
            return Refusal(backend, explained(missing, slot.isolation), f"Remedy: {cures(missing)}")
        undone.pop_all()
        return launcher, slot


async def open_backend(backend: str, spec: SandboxSpec) -> tuple[Launcher, Slot]:
    """The first backend that works and holds what `spec` requires.

    Raises SandboxUnavailable with what was probed and the remedy.
    """
    try:
        check_template(spec)  # the same for all backends
    except SandboxError as error:
        raise SandboxUnavailable(str(error)) from error
    refusals: list[Refusal] = []
    for name in AUTO if backend == "auto" else (backend,):
        found = await attempt(name, spec)
        if not isinstance(found, Refusal):
            return found
        refusals.append(found)
    reasons = "; ".join(f"{refusal.backend}: {refusal.text}" for refusal in refusals)
    advice = dict.fromkeys(refusal.cure for refusal in refusals if refusal.cure)
    raise SandboxUnavailable(". ".join((f"no sandbox is available. {reasons}", *advice)))


async def probe_backend(backend: str = "auto", spec: SandboxSpec | None = None) -> Isolation:
    """What isolation this machine really gives, proven by one sandbox that ran, without its template.

    Raises ConfigError, or SandboxUnavailable, naming what was probed and the remedy: within two seconds, but
    for containers, whose image may have to be pulled.
    """
    check_backend(backend)
    spec = replace(spec or SandboxSpec(), template="")
    check_image(backend, spec)
    check_requirements(spec.require)
    try:
        async with asyncio.timeout(None if backend in CONTAINERS else _PROBE_S):
            launcher, slot = await open_backend(backend, spec)
            try:
                await slot.exec("true")
                return slot.isolation
            finally:
                await slot.close()
                await launcher.close()
    except TimeoutError:
        reason = f"{backend}: no sandbox within {_PROBE_S} s"
        raise SandboxUnavailable(f"no sandbox is available. {reason}. {remedies([reason])}") from None
