"""The command lines of docker and podman: what is asked of them, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox import ownership
from atropos_agent.sandbox.inside import rootfs
from atropos_agent.sandbox.protocol import WORKSPACE, SandboxSpec
from atropos_agent.sandbox.slot import resolved_binds

_ANSWER_S = 60.0
_PULL_S = 1800.0

logger: logging.Logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a command of the engine said and whether it worked."""

    worked: bool
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is there: its variables, and the directories that it wants kept outside of itself."""

    name: str
    environment: Mapping[str, str]
    volumes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine by the name of its program, and where it differs from the other.

    `flags` are further ones of `run`, `at_once` of `rm`, which make it not wait for a container to obey;
    `counts_inodes` is True where a tmpfs can be given a limit of them; `ignores_volumes` where an image's
    volumes can be left out.
    """

    name: str
    flags: tuple[str, ...]
    at_once: tuple[str, ...]
    counts_inodes: bool
    ignores_volumes: bool
    cure: str

    def program(self) -> str:
        """Where it is. Raises SandboxUnavailable."""
        found = shutil.which(self.name)
        if found is None:
            raise SandboxUnavailable(f"{self.name} is not installed; {self.cure}")
        return found

    async def ask(self, *arguments: str, timeout_s: float = _ANSWER_S) -> Answer:
        """Run one command of the engine. Raises SandboxUnavailable if the program does not exist or does not
        answer in time."""
        process = await asyncio.create_subprocess_exec(
            self.program(),
            *arguments,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_s):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            said = f"`{self.name} {' '.join(arguments[:2])}` did not answer within {timeout_s:g} s"
            raise SandboxUnavailable(f"{said}; {self.cure}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Answer(process.returncode == 0, _text(stdout), _text(stderr))

    async def sweep(self) -> None:
        """Remove the containers of trainers that are gone. Raises SandboxUnavailable where the engine does
        not serve us."""
        listed = await self.ask("ps", "--all", "--quiet", "--no-trunc", f"--filter=label={ownership.LABEL}")
        if not listed.worked:
            raise SandboxUnavailable(f"{self.name} does not serve: {listed.stderr}; {self.cure}")
        if found := listed.stdout.split():
            label = f'{{{{.Id}}}} {{{{index .Config.Labels "{ownership.LABEL}"}}}}'
            answer = (await self.ask("container", "inspect", f"--format={label}", *found)).stdout
            entries = [line.split(" ", 1) for line in answer.splitlines() if " " in line]
            await self.remove([identity for identity, owner in entries if ownership.is_gone(owner)])

    async def remove(self, names: Sequence[str]) -> None:
        """End containers by force, as far as the engine answers."""
        if names:
            with contextlib.suppress(SandboxUnavailable):
                await self.ask("rm", "--force", "--volumes", *self.at_once, *names)

    async def image(self, name: str) -> Image:
        """An image, pulled if it is not there. Raises SandboxUnavailable."""
        found = await self._inspect(name)
        if found is None:
            logger.warning("%s has no image %s yet: pulling it", self.name, name)
            pulled = await self.ask("pull", "--quiet", name, timeout_s=_PULL_S)
            found = await self._inspect(name)
            if found is None:
                raise SandboxUnavailable(
                    f"{self.name} has no image {name!r} and cannot pull it: {pulled.stderr[-1000:]}; check "
                    f"the name, build it, or `{self.name} pull` it where there is a network"
                )
        if found.volumes and not self.ignores_volumes:
            raise SandboxUnavailable(
                f"the image {name!r} declares volumes ({', '.join(found.volumes)}), which would be writable "
                "without a limit: build one without VOLUME, or use podman, which can leave them out"
            )
        return found

    def run_arguments(self, spec: SandboxSpec, name: str, entry: Sequence[str]) -> list[str]:
        """The command that runs `entry` as pid 1 of a container called `name`."""
        workspace = f"size={spec.workspace_bytes},mode=0777"
        if self.counts_inodes:
            workspace += f",nr_inodes={spec.workspace_inodes}"
        program, *arguments = entry
        return [
            *("run", "--rm", "--interactive", "--pull=never", f"--name={name}"),
            *(
                f"--label={ownership.LABEL}={ownership.owner_of(os.getpid())}",
                "--log-driver=none",
                "--no-healthcheck",
            ),
            *("--network=none", "--hostname=sandbox", "--ipc=private", "--workdir=/", "--read-only"),
            "--init=false",
            *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
            f"--user={rootfs.USER_ID}:{rootfs.USER_ID}",
            *(f"--memory={spec.memory_bytes}", f"--memory-swap={spec.memory_bytes}"),
            f"--pids-limit={spec.processes}",
            *([] if spec.cpus is None else [f"--cpus={spec.cpus}"]),
            f"--tmpfs={WORKSPACE}:rw,exec,nosuid,nodev,{workspace}",
            f"--tmpfs=/tmp:rw,exec,nosuid,nodev,size={rootfs.TMP_BYTES},mode=1777",
            f"--shm-size={rootfs.SHM_BYTES}",
            *(f"--mount={_bind(source, target)}" for source, target in resolved_binds(spec)),
            *self.flags,
            *(f"--entrypoint={program}", spec.image, *arguments),
        ]

    async def _inspect(self, name: str) -> Image | None:
        answer = await self.ask("image", "inspect", "--format={{json .Config}}", name)
        if not answer.worked:
            return None
        config = json.loads(answer.stdout)
        variables = (entry.partition("=") for entry in config.get("Env") or [])
        environment = {key: value for key, _, value in variables}
        return Image(name, environment, tuple(config.get("Volumes") or ()))


DOCKER = Engine(
    "docker",
    flags=(),
    at_once=(),
    counts_inodes=True,
    ignores_volumes=False,
    cure="install and start the docker engine and let your user reach its socket, or use "
    "--sandbox.backend=podman",
)
PODMAN = Engine(
    "podman",
    flags=("--read-only-tmpfs=false", "--image-volume=ignore", "--http-proxy=false"),
    at_once=("--time=0",),
    counts_inodes=False,
    ignores_volumes=True,
    cure="`podman run --rm IMAGE true` must work for your user (install podman and runc or crun), or use "
    "--sandbox.backend=docker",
)


def _bind(source: str, target: str) -> str:
    """A mount that is refused, and not made up, where there is no `source`. Raises SandboxError."""
    for path in (source, target):
        if set(path) & set(',"\n'):
            raise SandboxError(
                f"{path!r} cannot be shown in a container: it has a comma, quote or line break"
            )
    return f"type=bind,source={source},target={target},readonly"


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()
