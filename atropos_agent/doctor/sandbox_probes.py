"""Small attacks, run in a real sandbox: what does each limit do to a command that ignores it?

Each is plain shell, so that it runs wherever a sandbox does, and takes a bounded amount of the machine even
where nothing holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from atropos_agent.doctor.findings import Check, Grade
from atropos_agent.sandbox import ExecStatus, Sandbox, SandboxSpec

SMALL = SandboxSpec(
    workspace_bytes=8 << 20,
    workspace_inodes=500,
    memory_bytes=96 << 20,
    processes=32,
    cpu_s=1.0,
    output_kept_bytes=1 << 18,
    output_limit_bytes=1 << 20,
)
_LIMIT_S = 10.0
_WALL_S = 0.3
_BUSY_S = 15.0
"""Long enough for a second of CPU time, also where everybody wants some."""
_WORDS = 8
_ORDINARY = (b"PATH", b"LANG", b"HOME", b"PWD", b"SHELL")
_CALL = "if command -v bash; then bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'; fi > /dev/null 2>&1"
_SEEN_AFTER_S = 0.02


@dataclass(frozen=True, slots=True)
class Bait:
    """What a sandbox must not reach: a file, a listener, and a process with a secret in its environment."""

    file: Path
    listener: socket.socket
    token: str

    @property
    def port(self) -> int:
        """Of the listener, on the loopback."""
        return int(self.listener.getsockname()[1])

    def was_called(self) -> bool:
        """True if a process connected to the listener."""
        try:
            connection, _ = self.listener.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True


@contextlib.contextmanager
def bait() -> Iterator[Bait]:
    """Bait that lies out for the length of the block. Raises OSError."""
    token = secrets.token_hex(16)
    program = [sys.executable, "-c", "import time; time.sleep(600)", token]
    with (
        tempfile.TemporaryDirectory(prefix="atropos-doctor-") as directory,
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(program, env={"CANARY": token}) as decoy,
    ):
        Path(directory).chmod(0o755)
        file = Path(directory, "secret")
        file.write_text(token)
        listener.setblocking(False)
        try:
            yield Bait(file, listener, token)
        finally:
            decoy.kill()


async def memory(sandbox: Sandbox, _: Bait) -> Check:
    """Keep three times as much as is allowed."""
    size = 3 * SMALL.memory_bytes
    done = await sandbox.exec(f"head -c {size} /dev/zero | tail | wc -c", timeout_s=_LIMIT_S)
    text = f"{_mib(size)} were asked for, {_mib(SMALL.memory_bytes)} are allowed: {done.status}"
    return _held("memory", done.status is ExecStatus.OOM, text)


async def processes(sandbox: Sandbox, _: Bait) -> Check:
    """Start twice as many as are allowed."""
    count = 2 * SMALL.processes
    loop = f"i=0; while [ $i -lt {count} ]; do sleep 9 & i=$((i+1)); echo $i; done"
    done = await sandbox.exec(f"{loop}; echo all", timeout_s=_LIMIT_S)
    started = done.stdout.split()
    text = f"{count} were asked for, {SMALL.processes} are allowed: {len(started)} were started"
    return _held("processes", b"all" not in started and len(started) < SMALL.processes, text)


async def workspace(sandbox: Sandbox, _: Bait) -> Check:
    """Write twice as much as there is room for."""
    size = 2 * SMALL.workspace_bytes
    done = await sandbox.exec(f"head -c {size} /dev/zero > big; wc -c < big", timeout_s=_LIMIT_S)
    written = _number(done.stdout)
    text = f"{_mib(size)} were written, {_mib(SMALL.workspace_bytes)} are allowed: {_mib(written)} are there"
    return _held("workspace", 0 < written <= SMALL.workspace_bytes, text)


async def inodes(sandbox: Sandbox, _: Bait) -> Check:
    """Make twenty times as many files as are allowed."""
    count = 20 * SMALL.workspace_inodes
    command = f"seq {count} | xargs touch 2>/dev/null; sleep 0.3; ls -A | wc -l"
    done = await sandbox.exec(command, timeout_s=_LIMIT_S)
    made = _number(done.stdout)
    text = f"{count} files were asked for, {SMALL.workspace_inodes} are allowed: "
    text += f"{made} are there" if done.status is ExecStatus.OK else f"ended ({done.status})"
    return _held("inodes", done.status is not ExecStatus.OK or made <= SMALL.workspace_inodes, text)


async def output(sandbox: Sandbox, _: Bait) -> Check:
    """Write without end."""
    done = await sandbox.exec("yes", timeout_s=_LIMIT_S)
    text = f"`yes`, {_mib(SMALL.output_limit_bytes)} are allowed: {done.status}"
    return _held("output", done.status is ExecStatus.OUTPUT_LIMIT, text)


async def wall(sandbox: Sandbox, _: Bait) -> Check:
    """Sleep past the limit."""
    done = await sandbox.exec("sleep 60", timeout_s=_WALL_S)
    text = f"`sleep 60`, {_WALL_S:g} s are allowed: {done.status} after {done.duration_s:.2f} s"
    return _held("wall", done.status is ExecStatus.TIMEOUT, text)


async def cpu(sandbox: Sandbox, _: Bait) -> Check:
    """Compute without end."""
    done = await sandbox.exec("while :; do :; done", timeout_s=_BUSY_S)
    text = f"an endless loop, {SMALL.cpu_s:g} s are allowed: {done.status} after {done.duration_s:.1f} s"
    return _held("cpu", done.duration_s < _BUSY_S, text)


async def network(sandbox: Sandbox, lure: Bait) -> Check:
    """Call a listener of this machine, and look for interfaces."""
    command = f"{_CALL.format(port=lure.port)}; command -v bash; cat /proc/net/dev"
    done = await sandbox.exec(command, timeout_s=_LIMIT_S)
    lines = done.stdout.decode(errors="replace").splitlines()
    interfaces = [line.split(":")[0].strip() for line in lines if ":" in line]
    called = lure.was_called()
    text = f"a listener of this machine was {'' if called else 'not '}reached"
    if not lines or not lines[0].endswith("bash"):
        text = "no bash to call a listener of this machine with"
    text += f"; interfaces: {', '.join(interfaces[:_WORDS]) or 'none'}"
    return _held("network", not called and set(interfaces) <= {"lo"}, text)


async def syscalls(sandbox: Sandbox, _: Bait) -> Check:
    """Read what the kernel filters, and try to get namespaces of one's own."""
    command = (
        "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; unshare -U true 2>/dev/null && echo nested: yes"
    )
    done = await sandbox.exec(command, timeout_s=_LIMIT_S)
    status = dict(line.split(":\t", 1) for line in done.stdout.decode().splitlines() if ":\t" in line)
    nested = b"nested" in done.stdout
    text = f"seccomp mode {status.get('Seccomp')}, no_new_privs {status.get('NoNewPrivs')}, "
    text += f"namespaces of its own: {'yes' if nested else 'no'}"
    return _held(
        "syscalls", (status.get("Seccomp"), status.get("NoNewPrivs"), nested) == ("2", "1", False), text
    )


async def identity(sandbox: Sandbox, _: Bait) -> Check:
    """Who is it on this machine, as seen from outside?"""
    token = secrets.token_hex(16)
    running = asyncio.create_task(sandbox.exec(f"sh -c 'sleep 2; :' {token}", timeout_s=1.0))
    uid = None
    while uid is None and not running.done():
        await asyncio.sleep(_SEEN_AFTER_S)
        uid = _owner_of(token.encode())
    await running
    if uid is None:
        return Check("identity", Grade.UNKNOWN, "its processes cannot be seen from here")
    return _held("identity", uid != 0, f"its processes are uid {uid} of this machine")


async def check(sandbox: Sandbox, _: Bait) -> Check:
    """Change the workspace from a command that scores it."""
    done = await sandbox.check("touch /workspace/changed", timeout_s=_LIMIT_S)
    text = (
        f"a scoring command {'could' if done.status is ExecStatus.OK else 'could not'} change the workspace"
    )
    return _held("check", done.status is ExecStatus.NONZERO, text)


async def files(sandbox: Sandbox, lure: Bait) -> Check:
    """Read a file of this machine that anybody may read."""
    done = await sandbox.exec(f"cat {lure.file}", timeout_s=_LIMIT_S)
    leaked = lure.token.encode() in done.stdout
    return _held("files", not leaked, f"a file of this machine was {'' if leaked else 'not '}read")


async def secret(sandbox: Sandbox, lure: Bait) -> Check:
    """Look for processes of this machine, and for secrets in the environment of any process."""
    done = await sandbox.exec(
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'", timeout_s=_LIMIT_S
    )
    lines = set(done.stdout.splitlines())
    process = lure.token.encode() in lines
    environment = f"CANARY={lure.token}".encode() in lines
    leaked = _own_among(lines)
    text = f"a process of this machine was {'' if process else 'not '}seen, "
    text += f"its environment {'' if environment else 'not '}read"
    if leaked:
        text += f"; of ours were read: {', '.join(leaked[:_WORDS])}"
    return _held("secrets", not (process or environment or leaked), text)


Probe = Callable[[Sandbox, Bait], Awaitable[Check]]
HARMLESS: dict[str, Probe] = {
    "output": output,
    "wall": wall,
    "network": network,
    "syscalls": syscalls,
    "identity": identity,
    "files": files,
    "secrets": secret,
}
"""Those that can be tried where nothing holds them."""
PROBES: dict[str, Probe] = {
    "memory": memory,
    "processes": processes,
    "workspace": workspace,
    "inodes": inodes,
    "cpu": cpu,
    "check": check,
    **HARMLESS,
}


def _held(name: str, held: bool, text: str) -> Check:
    return Check(name, Grade.GOOD if held else Grade.BAD, text)


def _own_among(seen: set[bytes]) -> list[str]:
    """Names of our environment whose values a process inside carries; PATH and the like are set there too."""
    names: set[str] = set()
    for line in Path("/proc/self/environ").read_bytes().split(b"\0"):
        name, _, value = line.partition(b"=")
        if line in seen and len(value) >= _WORDS and name not in _ORDINARY:
            names.add(name.decode(errors="replace"))
    return sorted(names)


def _owner_of(argument: bytes) -> int | None:
    """The uid, as this machine counts, of a process with this argument."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if argument in (entry / "cmdline").read_bytes().split(b"\0"):
                    return entry.stat().st_uid
    return None


def _number(text: bytes) -> int:
    word = text.split()[-1:] or [b""]
    return int(word[0]) if word[0].isdigit() else -1


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
