"""Slots in containers of docker or podman, for tasks that come as an image.

The supervisor inside is the same as in native slots. Requests go over the stdin and stdout of `docker run`,
so that the container ends with that channel, even if this process is killed. The supervisor's code is sent
over stdin too, because the engine's user, or its machine, may be unable to read our files.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import tempfile
from collections.abc import Coroutine
from typing import IO

from atropos_agent.errors import ConfigError, SandboxError, SandboxUnavailable
from atropos_agent.sandbox.archive import archive
from atropos_agent.sandbox.engine import DOCKER, PODMAN, Engine, Image
from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.inside.check import TRUNCATE_SINCE
from atropos_agent.sandbox.link import Link
from atropos_agent.sandbox.native import settled
from atropos_agent.sandbox.protocol import Isolation, SandboxSpec
from atropos_agent.sandbox.slot import SlotProcess, SupervisedSandbox, configuration

CONTAINERS = (DOCKER.name, PODMAN.name)
_START_S = 60.0
_EXIT_S = 10.0
_SIZE_BYTES = 8
_OLDEST_PYTHON = (3, 10)
_OURS = frozenset({"HOME", "LOGNAME", "SHELL", "TERM", "TMPDIR", "USER"})

_BOOTSTRAP = f"""
import sys
if sys.version_info < {_OLDEST_PYTHON}:
    sys.exit("its python3 is version %d.%d" % sys.version_info[:2])
import os
if not os.access("/bin/sh", os.X_OK):
    sys.exit("it has no /bin/sh")
def take(size):
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(0)
        data += more
    return data
archive = os.memfd_create("atropos-sandbox", 0)
with open(archive, "wb", closefd=False) as file:
    file.write(take(int.from_bytes(take({_SIZE_BYTES}), "big")))
os.execv(sys.executable, [sys.executable, "-I", "-S", "-E", "/proc/self/fd/%d" % archive, "container"])
"""
_ENTRY = ("python3", "-I", "-S", "-E", "-c", _BOOTSTRAP)


class ContainerLauncher:
    """Makes slots with `docker run` or `podman run`, one container per slot."""

    def __init__(self, engine: Engine, spec: SandboxSpec) -> None:
        self._engine = engine
        self._spec = spec
        self._isolation = Isolation(engine.name, unsafe=False)
        self._images: dict[str, Image] = {}
        self._looking = asyncio.Lock()
        self._slots: dict[str, SlotProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def docker(cls, spec: SandboxSpec) -> ContainerLauncher:
        """Slots of the docker engine."""
        return cls(DOCKER, spec)

    @classmethod
    def podman(cls, spec: SandboxSpec) -> ContainerLauncher:
        """Slots of podman."""
        return cls(PODMAN, spec)

    @property
    def isolation(self) -> Isolation:
        """What the latest slot was seen to enforce; no limit before there was one."""
        return self._isolation

    async def start(self) -> None:
        """Remove what trainers that are gone have left, and get the image, pulled where it is not there.

        Raises SandboxUnavailable.
        """
        await self._engine.sweep()
        await self._image(self._spec.image)

    async def launch(self, spec: SandboxSpec | None = None) -> SupervisedSandbox:
        """A fresh slot, of this launcher's spec or another. Raises SandboxUnavailable where it cannot be set
        up."""
        spec = spec or self._spec
        image = await self._image(spec.image)
        with tempfile.TemporaryFile() as errors:
            return await self._launch(spec, image, errors)

    async def close(self) -> None:
        """Wait until every container is gone, by force where one lasts."""
        if not await self._all_gone():
            await self._engine.remove(list(self._slots))
            await self._all_gone()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all_gone(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                for slot in list(self._slots.values()):
                    await slot.gone.wait()
        return not self._slots

    async def _image(self, name: str) -> Image:
        async with self._looking:
            if name not in self._images:
                self._images[name] = await self._engine.image(name)
            return self._images[name]

    async def _launch(self, spec: SandboxSpec, image: Image, errors: IO[bytes]) -> SupervisedSandbox:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                slot = await self._run(spec, theirs, errors)
        except BaseException:
            ours.close()
            raise
        try:
            link, limits = await _set_up(ours, spec, image)
        except (OSError, SandboxError, frames.FrameError) as error:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_S):
                    await slot.gone.wait()
            slot.end()
            errors.seek(0)
            said = (
                errors.read(4000).decode(errors="replace").strip()
                or str(error)
                or f"nothing within {_START_S:g} s"
            )
            raise SandboxUnavailable(self._refusal(spec.image, said)) from error
        self._isolation = Isolation(self._engine.name, unsafe=False, limits=limits)
        return SupervisedSandbox(link, slot, spec, self._isolation)

    async def _run(self, spec: SandboxSpec, channel: socket.socket, errors: IO[bytes]) -> SlotProcess:
        name = f"atropos-{secrets.token_hex(8)}"
        command = self._engine.program(), *self._engine.run_arguments(spec, name, _ENTRY)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd="/",
                stdin=channel.fileno(),
                stdout=channel.fileno(),
                stderr=errors.fileno(),
                start_new_session=True,
            )
        except asyncio.CancelledError:  # the command is killed, and may have got far enough
            self._keep(self._engine.remove([name]))
            raise
        slot = SlotProcess(kill=lambda: self._keep(self._engine.remove([name])))
        self._slots[name] = slot
        self._keep(self._follow(process, name, slot))
        return slot

    async def _follow(self, process: asyncio.subprocess.Process, name: str, slot: SlotProcess) -> None:
        """Until the container is removed, as it is before the engine's command ends unless that is killed."""
        try:
            if await process.wait() < 0:
                await self._engine.remove([name])
        finally:
            del self._slots[name]
            slot.ended()

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        """Do it beside everything else, at the latest until we are closed."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refusal(self, image: str, said: str) -> str:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        return (
            f"{self._engine.name} made no slot of the image {image!r}: {said}; an image for slots has "
            f"/bin/sh and in its PATH a python3 >= {oldest} with its standard library (python:3-slim is "
            f"one); {self._engine.cure}"
        )


def check_image(backend: str, spec: SandboxSpec) -> None:
    """Raises ConfigError where `backend` lacks an image, or cannot run the one there is."""
    if backend in CONTAINERS and not spec.image:
        raise ConfigError(f"the sandbox backend {backend} needs an image: set sandbox.image, or use another")
    if backend not in CONTAINERS and spec.image:
        raise ConfigError(
            f"the sandbox backend {backend} cannot run the image {spec.image!r}: "
            f"set sandbox.backend to {' or '.join(CONTAINERS)}"
        )
    if spec.image.startswith("-") or any(map(str.isspace, spec.image)):
        raise ConfigError(f"sandbox.image is {spec.image!r}; it must be the name of an image")


async def _set_up(channel: socket.socket, spec: SandboxSpec, image: Image) -> tuple[Link, dict[str, str]]:
    """Bring the supervisor in and configure it: the link to it, and the mechanism behind each limit.

    The channel is the link's, or closed. Raises OSError, SandboxError, FrameError.
    """
    code = archive()
    try:
        channel.setblocking(False)
        async with asyncio.timeout(_START_S):
            await asyncio.get_running_loop().sock_sendall(
                channel, len(code).to_bytes(_SIZE_BYTES, "big") + code
            )
        link = await Link.over(channel)
    except BaseException:
        channel.close()
        raise
    try:
        environment = {name: value for name, value in image.environment.items() if name not in _OURS}
        configured = configuration(spec, watch_memory=True) | {"environment": environment}
        return link, _limits(spec, await settled(link, configured, timeout_s=_START_S))
    except BaseException:
        link.abandon("the launch failed")
        raise


def _limits(spec: SandboxSpec, meta: dict[str, object]) -> dict[str, str]:
    """The mechanism behind each limit, by what the supervisor saw. Raises FrameError."""
    holds = meta.get("holds")
    if not isinstance(holds, dict):
        raise frames.FrameError(f"field 'holds' is {holds!r:.80}, not an object")
    group = f"cgroup-v{holds.get('version')}"

    def held(key: str, asked: float | None, otherwise: str) -> str:
        limit = holds.get(key)
        return group if isinstance(limit, int | float) and asked is not None and limit <= asked else otherwise

    return {
        "memory": held("memory_bytes", spec.memory_bytes, "watcher"),
        "processes": held("processes", spec.processes, "rlimit-shared"),
        "workspace": "tmpfs",
        "inodes": "watcher" if meta.get("inodes_watched") else "tmpfs",
        "output": "supervisor",
        "wall": "supervisor",
        "cpu": "rlimit and watcher",
        "cpus": held("cpus", spec.cpus, "none"),
        "check": "landlock" if frames.integer(meta, "landlock") >= TRUNCATE_SINCE else "none",
        "network": "namespace",
        "syscalls": "seccomp",
        "identity": "uid-shared",
    }
