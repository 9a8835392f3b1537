"""Slots whose namespaces bubblewrap makes, for kernels that let only profiled programs make them.

The supervisor inside is the same as in native slots; each slot starts an interpreter of its own for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox.archive import memory_file, open_archive
from atropos_agent.sandbox.cgroup import MemoryGroups, find_memory_groups
from atropos_agent.sandbox.identity import identities
from atropos_agent.sandbox.inside import rootfs
from atropos_agent.sandbox.link import Link
from atropos_agent.sandbox.native import limits, settled
from atropos_agent.sandbox.protocol import WORKSPACE, Isolation, SandboxSpec
from atropos_agent.sandbox.slot import SlotProcess, SupervisedSandbox, configuration, resolved_binds

_OLDEST = (0, 8)
_OLDEST_PYTHON = (3, 11)
_SYSTEM_PYTHON = "/usr/bin/python3"
_START_S = 10.0
_EXIT_S = 5.0
_LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """A python that a slot can run, and the directory to show for it ("" where /usr holds it)."""

    path: str
    bind: str


class BubblewrapLauncher:
    """Makes slots with `bwrap`, one process per slot."""

    def __init__(self, spec: SandboxSpec) -> None:
        self._spec = spec
        self._groups: MemoryGroups | None = find_memory_groups()
        self._program = ""
        self._interpreter = _Interpreter("", "")
        self._processes: dict[int, SlotProcess] = {}

    @property
    def isolation(self) -> Isolation:
        """What slots of this launcher enforce. bwrap's tmpfs has no inode limit, so files are counted."""
        return Isolation("bubblewrap", unsafe=False, limits=limits(self._groups, inodes="watcher"))

    async def start(self) -> None:
        """Find bwrap and an interpreter. Raises SandboxUnavailable."""
        program = shutil.which("bwrap", path=os.defpath)
        if program is None:
            raise SandboxUnavailable("bwrap is not installed")
        version = await _version([program, "--version"])
        if version < _OLDEST:
            raise SandboxUnavailable(f"bwrap is version {version}; it must be at least {_OLDEST}")
        self._program = program
        self._interpreter = await self._find_interpreter()

    async def launch(self, spec: SandboxSpec | None = None) -> SupervisedSandbox:
        """A fresh slot, of this launcher's spec or another. Raises SandboxUnavailable where it cannot be set
        up."""
        info = os.memfd_create("bwrap-info")
        try:
            with tempfile.TemporaryFile() as errors:
                return await self._launch(spec or self._spec, info, errors)
        finally:
            os.close(info)

    async def _launch(self, spec: SandboxSpec, info: int, errors: IO[bytes]) -> SupervisedSandbox:
        uid = identities().take()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = self._start_process(spec, theirs, info, errors.fileno(), uid)
        except BaseException:
            ours.close()
            identities().give_back(uid)
            raise
        slot = self._watch(process, uid)
        link = await Link.over(ours)
        try:
            pid = await _child_pid(info, slot)
            slot.kill = lambda: _kill(pid)
            if self._groups is not None:
                slot.memory = self._groups.create(spec.memory_bytes)
                slot.memory.add(pid)
            await settled(link, configuration(spec, watch_memory=self._groups is None))
        except asyncio.CancelledError:
            link.abandon("the launch was cancelled")
            raise
        except (OSError, SandboxError) as error:
            link.abandon("the launch failed")
            slot.end()
            errors.seek(0)
            said = errors.read(2000).decode(errors="replace").strip()
            raise SandboxUnavailable(said or str(error)) from error
        return SupervisedSandbox(link, slot, spec, self.isolation)

    async def close(self) -> None:
        """Wait until every slot is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                for process in list(self._processes.values()):
                    await process.gone.wait()
        if self._groups is not None:
            await self._groups.settle()

    async def _find_interpreter(self) -> _Interpreter:
        """The system's own, which every slot can see; else ours, if the slots' uid can reach it."""
        if await _version([_SYSTEM_PYTHON, "--version"]) >= _OLDEST_PYTHON:
            return _Interpreter(_SYSTEM_PYTHON, "")
        return _own_interpreter(identities().base)

    def _start_process(
        self, spec: SandboxSpec, control: socket.socket, status: int, errors: int, uid: int
    ) -> subprocess.Popen[bytes]:
        archive = open_archive()
        etc = {name: memory_file(name, text.encode()) for name, text in rootfs.ETC.items()}
        user = None if uid < 0 else uid
        python = [self._interpreter.path, "-I", "-S", "-E", f"/proc/self/fd/{archive}"]
        try:
            return subprocess.Popen(
                [
                    self._program,
                    *("--info-fd", str(status)),
                    *self._flags(spec, etc),
                    "--",
                    *(*python, "slot", str(control.fileno())),
                ],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(archive, control.fileno(), status, *etc.values()),
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        finally:
            for descriptor in (archive, *etc.values()):
                os.close(descriptor)

    def _flags(self, spec: SandboxSpec, etc: dict[str, int]) -> list[str]:
        """bwrap's arguments: the same tree as `rootfs.build` makes."""
        identity = str(rootfs.USER_ID)
        flags = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", identity, "--gid", identity]
        flags += [
            "--hostname",
            "sandbox",
            "--as-pid-1",
            "--cap-drop",
            "ALL",
            "--clearenv",
        ]
        flags += ["--ro-bind", "/usr", "/usr"]
        for name in rootfs.TOP_LEVEL:
            path = Path("/", name)
            if path.is_symlink():
                flags += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                flags += ["--ro-bind", str(path), str(path)]
        for name, descriptor in etc.items():
            flags += ["--ro-bind-data", str(descriptor), f"/etc/{name}"]
        flags += ["--symlink", "../usr/lib/os-release", "/etc/os-release"]
        for name in rootfs.CONFIGURATION:
            flags += ["--ro-bind-try", name, name]
        if self._interpreter.bind:
            flags += ["--ro-bind", self._interpreter.bind, self._interpreter.bind]
        flags += ["--proc", "/proc", "--dev", "/dev"]
        sizes = (
            ("/tmp", rootfs.TMP_BYTES),  # noqa: S108 the slot's own
            ("/dev/shm", rootfs.SHM_BYTES),  # noqa: S108
            (WORKSPACE, spec.workspace_bytes),
        )
        for target, size in sizes:
            flags += ["--size", str(size), "--tmpfs", target]
        for source, target in resolved_binds(spec):
            flags += ["--ro-bind", source, target]
        return [*flags, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]

    def _watch(self, process: subprocess.Popen[bytes], uid: int) -> SlotProcess:
        """Reap bwrap once it ends; it outlives everything in its slot.

        Without --die-with-parent, which could leave a half-made child behind: the supervisor ends by itself
        when its socket closes, and bwrap with it. `kill` ends the whole process group at once.
        """
        slot = SlotProcess(kill=lambda: _kill(-process.pid), groups=self._groups)
        self._processes[process.pid] = slot
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(process.pid)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            process.wait()
            del self._processes[process.pid]
            identities().give_back(uid)
            slot.ended()

        loop.add_reader(pidfd, ended)
        return slot


async def _child_pid(info: int, slot: SlotProcess) -> int:
    """The pid of the slot's pid 1, as bwrap writes it before it lets it run.

    Into a file, not a pipe: a trainer's death must not break bwrap off between making that process and
    releasing it. Raises SandboxUnavailable where nothing is written.
    """
    for _ in range(int(_START_S / _LOOK_S)):
        status = os.pread(info, 4096, 0)
        if status.rstrip().endswith(b"}"):
            return int(json.loads(status)["child-pid"])
        if slot.gone.is_set():
            break
        await asyncio.sleep(_LOOK_S)
    raise SandboxUnavailable("bwrap did not start the slot")


def _own_interpreter(uid: int) -> _Interpreter:
    path, prefix = Path(sys.executable).resolve(), Path(sys.base_prefix).resolve()
    if path.is_relative_to(prefix) and (uid < 0 or _open_to_all(path)):
        return _Interpreter(str(path), str(prefix))
    raise SandboxUnavailable(f"slots need {_SYSTEM_PYTHON} >= 3.11; uid {uid} cannot run {path} either")


async def _version(command: list[str]) -> tuple[int, ...]:
    """The first two numbers of a program's version; empty if the program does not exist."""
    return await asyncio.to_thread(_ask_version, command)


def _ask_version(command: list[str]) -> tuple[int, ...]:
    try:
        done = subprocess.run(command, env={}, capture_output=True, timeout=_START_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(rb"(\d+)\.(\d+)", done.stdout + done.stderr)
    return tuple(int(number) for number in found.groups()) if found else ()


def _open_to_all(path: Path) -> bool:
    """True where any user may reach and execute `path`."""
    return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))


def _kill(pid: int) -> None:
    """Kill a process, or with a negative number a group."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
