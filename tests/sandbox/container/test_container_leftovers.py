"""Whatever dies, no container is left, and none of anybody else's is touched."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox import ExecStatus, SandboxPool, ownership
from atropos_agent.sandbox.backends import BACKENDS
from tests.sandbox.container.conftest import IMAGE, SMALL

pytestmark = pytest.mark.integration

TRAINER = """
import asyncio, sys
from atropos_agent.sandbox import SandboxPool, SandboxSpec
async def main():
    async with SandboxPool(sys.argv[2], SandboxSpec(image=sys.argv[1]), size=1) as pool:
        async with pool.acquire() as sandbox:
            sys.stdout.write("up\\n")
            sys.stdout.flush()
            await sandbox.exec("trap '' TERM HUP; sleep 600", timeout_s=600)
asyncio.run(main())
"""


def children(pid):
    tasks = Path("/proc", str(pid), "task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def command_line(pid):
    return Path("/proc", pid, "cmdline").read_text()


async def settle(condition, seconds=15):
    for _ in range(seconds * 20):
        if condition():
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_killed_container_costs_only_itself(engine, pool):
    async with pool.acquire() as one:
        async with pool.acquire() as other:
            await one.exec("echo mine > me")
            await other.exec("echo other > me")
            running = asyncio.create_task(other.exec("sleep 60", timeout_s=60))
            await asyncio.sleep(0.3)
            for identity in engine.containers():
                if engine.ask("exec", identity, "cat", "/workspace/me", check=False).stdout == "other\n":
                    engine.ask("kill", identity)
            assert (await running).status is ExecStatus.SANDBOX_LOST
            with pytest.raises(SandboxLost):
                await other.read_file("me")
        assert (await one.exec("cat me")).stdout == b"mine\n"


async def test_a_killed_command_line_leaves_no_container(engine):
    launcher = BACKENDS[engine.name](SMALL)
    await launcher.start()
    sandbox = await launcher.launch()
    for child in children(os.getpid()):
        if f"{engine.name}\0run" in command_line(child):
            os.kill(int(child), signal.SIGKILL)
    assert (await sandbox.exec("true")).status is ExecStatus.SANDBOX_LOST
    await sandbox.close()
    await launcher.close()
    assert not engine.containers()


async def test_a_killed_trainer_leaves_no_container(engine):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRAINER, IMAGE, engine.name, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    await asyncio.sleep(0.3)
    assert engine.containers()
    process.kill()
    await process.wait()
    assert await settle(lambda: not engine.containers())


async def test_what_outlives_trainer_and_command_line_is_removed_by_the_next_trainer(engine):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRAINER, IMAGE, engine.name, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    left = set(engine.containers())
    process.send_signal(signal.SIGSTOP)
    for child in children(process.pid):
        os.kill(int(child), signal.SIGKILL)
    process.kill()
    await process.wait()
    async with SandboxPool(engine.name, SMALL, size=1):
        assert left
        assert not left & set(engine.containers())
    assert not engine.containers()


async def test_a_cancelled_start_leaves_no_container(engine):
    for after_s in (0.0, 0.2, 0.4):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_s), SandboxPool(engine.name, SMALL, size=1):
                pass
    assert await settle(lambda: not engine.containers())


def left_by(engine, owner):
    label = [f"--label={ownership.LABEL}={owner}"] if owner else []
    started = engine.ask("run", "--detach", "--network=none", *label, "--entrypoint=sleep", IMAGE, "600")
    return started.stdout.strip()


async def test_only_containers_whose_owner_is_gone_are_removed(engine):
    dying = await asyncio.create_subprocess_exec("sleep", "600")
    of_living, of_dead = ownership.owner_of(os.getpid()), ownership.owner_of(dying.pid)
    dying.kill()
    await dying.wait()
    reused = f"{of_living.rpartition('/')[0]}/1"
    elsewhere = of_dead.replace(of_dead.partition("/")[0], "another-boot.1")
    kept = {left_by(engine, of_living), left_by(engine, elsewhere), left_by(engine, "")}
    gone = {left_by(engine, of_dead), left_by(engine, reused)}
    assert gone <= set(engine.containers())
    async with SandboxPool(engine.name, SMALL, size=1):
        assert kept <= set(engine.containers())
        assert not gone & set(engine.containers())
    engine.remove(*kept)
