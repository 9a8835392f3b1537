"""Slots from namespaces alone: a zygote per pool, from which each slot is cloned, and a reaper."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox.archive import open_archive
from atropos_agent.sandbox.cgroup import MemoryGroups, find_memory_groups
from atropos_agent.sandbox.identity import identities
from atropos_agent.sandbox.inside import reaper
from atropos_agent.sandbox.inside.check import TRUNCATE_SINCE
from atropos_agent.sandbox.inside.linux import landlock_abi
from atropos_agent.sandbox.link import Link
from atropos_agent.sandbox.protocol import Isolation, SandboxSpec
from atropos_agent.sandbox.slot import SlotProcess, SupervisedSandbox, configuration
from atropos_agent.sandbox.template import can_overlay

_SET_UP_S = 10.0
_EXIT_S = 5.0
MACHINES = ("x86_64", "aarch64")


async def settled(
    link: Link, configured: dict[str, object], *, timeout_s: float = _SET_UP_S
) -> dict[str, object]:
    """Configure a fresh supervisor: what it says once it serves. Raises SandboxUnavailable (stage)."""
    frame = await link.request(configured, timeout_s=timeout_s)
    if frame.meta.get("ready") is not True:
        link.abandon("setup failed")
        raise SandboxUnavailable(f"setting up the slot failed at {frame.meta.get('fatal')!s:.500}")
    return frame.meta


class NativeLauncher:
    """Makes slots by clone() into new user, mount, pid, ipc, uts, net and cgroup namespaces."""

    backend = "native"

    def __init__(self, spec: SandboxSpec) -> None:
        self._spec = spec
        self._groups: MemoryGroups | None = find_memory_groups()
        self._helper: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[None] | None = None
        self._ids = itertools.count()
        self._spawning: dict[int, asyncio.Future[int]] = {}
        self._processes: dict[int, SlotProcess] = {}
        self._uids: dict[int, int] = {}

    @property
    def isolation(self) -> Isolation:
        """What slots of this launcher enforce."""
        return Isolation(self.backend, unsafe=False, limits=limits(self._groups, inodes="tmpfs"))

    async def start(self) -> None:
        """Start the reaper and the zygote. Raises SandboxUnavailable."""
        if sys.platform != "linux" or os.uname().machine not in MACHINES:
            raise SandboxUnavailable(
                f"this is {sys.platform} on {os.uname().machine}, not linux on {MACHINES}"
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with tempfile.TemporaryFile() as errors:
            try:
                with theirs:
                    self._helper = _start_helper(theirs, errors)
                ours.setblocking(False)
                loop = asyncio.get_running_loop()
                self._ready = loop.create_future()
                loop.add_reader(ours.fileno(), self._hear)
            except BaseException:
                ours.close()
                raise
            self._control = ours
            try:
                async with asyncio.timeout(_SET_UP_S):
                    await self._ready
            except (TimeoutError, SandboxUnavailable):
                errors.seek(0)
                said = errors.read(2000).decode(errors="replace").strip() or "no output"
                raise SandboxUnavailable(f"the sandbox's helper process did not start: {said}") from None

    async def launch(self, spec: SandboxSpec | None = None) -> SupervisedSandbox:
        """A fresh slot, of this launcher's spec or another. Raises SandboxUnavailable where it cannot be set
        up, else SandboxError."""
        spec = spec or self._spec
        ours, theirs = socket.socketpair()
        try:
            link = await Link.over(ours)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        try:
            with theirs:
                process, spawned = self._spawn(theirs)
            pid = await spawned
            if self._groups is not None:
                if process.gone.is_set():
                    raise SandboxError("the slot ended while it was set up")
                process.memory = self._groups.create(spec.memory_bytes)
                process.memory.add(pid)
            overlay = bool(spec.template) and can_overlay(spec.template)
            await settled(link, configuration(spec, watch_memory=self._groups is None, overlay=overlay))
        except BaseException:
            link.abandon("the launch failed")
            raise
        return SupervisedSandbox(link, process, spec, self.isolation, shows_template=overlay)

    async def close(self) -> None:
        """End both and wait until every slot is gone."""
        control, helper = self._control, self._helper
        if control is None or helper is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_S):
                for process in list(self._processes.values()):
                    await process.gone.wait()
        self._control = None
        asyncio.get_running_loop().remove_reader(control.fileno())
        control.close()
        await asyncio.to_thread(_wait_or_kill, helper)
        for slot in list(self._processes):
            self._forget(slot)
        if self._groups is not None:
            await self._groups.settle()

    def _spawn(self, end: socket.socket) -> tuple[SlotProcess, asyncio.Future[int]]:
        """Ask for a slot that serves `end`: its processes, and the pid of its pid 1 to come."""
        slot, uid = next(self._ids), identities().take()
        try:
            self._say(reaper.SPAWN, slot, uid, descriptors=(end.fileno(),))
        except SandboxError:
            identities().give_back(uid)
            raise
        self._uids[slot] = uid
        process = SlotProcess(kill=lambda: self._say(reaper.KILL, slot), groups=self._groups)
        self._processes[slot] = process
        spawned = asyncio.get_running_loop().create_future()
        self._spawning[slot] = spawned
        return process, spawned

    def _say(self, kind: bytes, slot: int, uid: int = 0, *, descriptors: tuple[int, ...] = ()) -> None:
        if self._control is None:
            raise SandboxError("the sandbox pool is closed")
        try:
            # Its buffer is full only while the helper is behind, which takes it microseconds a message.
            select.select([], [self._control], [], _EXIT_S)
            socket.send_fds(self._control, [reaper.MESSAGE.pack(kind, slot, uid, b"")], list(descriptors))
        except OSError as error:
            raise SandboxError(f"the sandbox's helper process is gone: {error}") from error

    def _hear(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(reaper.MESSAGE.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._helper_gone()
            return
        kind, slot, number, stage = reaper.MESSAGE.unpack(data)
        if kind == reaper.READY and self._ready is not None:
            self._ready.set_result(None)
        elif kind == reaper.SPAWNED:
            self._settle(slot, number)
        elif kind == reaper.FAILED:
            self._settle(slot, SandboxUnavailable(f"{stage.decode()}: {os.strerror(number)}"))
            self._forget(slot)
        elif kind == reaper.GONE:
            self._settle(slot, SandboxError("the slot ended while it was set up"))
            self._forget(slot)

    def _settle(self, slot: int, outcome: int | Exception) -> None:
        future = self._spawning.pop(slot, None)
        if future is None or future.done():
            return
        if isinstance(outcome, int):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _forget(self, slot: int) -> None:
        self._spawning.pop(slot, None)
        process = self._processes.pop(slot, None)
        if process is not None:
            identities().give_back(self._uids.pop(slot))
            process.ended()

    def _helper_gone(self) -> None:
        """It died under us; the kernel has killed all slots with it."""
        assert self._control is not None
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(SandboxUnavailable("the helper process ended"))
        for slot in list(self._processes):
            self._settle(slot, SandboxError("the sandbox's helper process is gone"))
            self._forget(slot)


def limits(groups: MemoryGroups | None, *, inodes: str) -> Mapping[str, str]:
    """The mechanism behind each limit of a supervised slot."""
    return {
        "memory": groups.mechanism if groups else "watcher",
        "processes": "rlimit",
        "workspace": "tmpfs",
        "inodes": inodes,
        "output": "supervisor",
        "wall": "supervisor",
        "cpu": "rlimit and watcher",
        "check": "landlock" if landlock_abi() >= TRUNCATE_SINCE else "none",
        "cpus": "none",
        "network": "namespace",
        "syscalls": "seccomp",
        "identity": identities().mechanism,
    }


def _start_helper(control: socket.socket, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    who = identities()
    archive = open_archive()
    program = [sys.executable, "-I", "-S", "-E", f"/proc/self/fd/{archive}"]
    try:
        return subprocess.Popen(
            [*program, "reaper", str(control.fileno()), str(who.base), who.mechanism],
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(archive, control.fileno()),
            start_new_session=True,
        )
    finally:
        os.close(archive)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
