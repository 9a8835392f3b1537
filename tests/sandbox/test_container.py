"""Slots in real containers, of a podman and of a docker."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from atropos_agent.errors import ConfigError, SandboxLost, SandboxUnavailable
from atropos_agent.sandbox import ExecStatus, SandboxPool, SandboxSpec, SessionKind, ownership
from atropos_agent.sandbox.backends import BACKENDS
from tests.sandbox import images
from tests.sandbox.engines import ENGINES, CannotRun

pytestmark = pytest.mark.integration

IMAGE = "localhost/atropos-test:full"
SMALL = SandboxSpec(
    image=IMAGE,
    workspace_bytes=8 << 20,
    workspace_inodes=200,
    memory_bytes=96 << 20,
    processes=40,
    cpus=0.5,
)
HOG = "python3 -c 'x = bytearray(300 << 20); print(len(x))'"
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


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, tmp_path_factory):
    """A podman or docker of our own with an image in it."""
    try:
        engine = ENGINES[request.param](tmp_path_factory.mktemp(request.param))
    except CannotRun as error:
        pytest.skip(str(error))
    try:
        engine.build(IMAGE, (*images.SHELL, *images.COMMANDS), changes=engine.changes)
        tried = engine.ask("run", "--rm", "--network=none", "--entrypoint=true", IMAGE, check=False)
        if tried.returncode:
            pytest.skip(f"{engine.name} cannot run a container here: {tried.stderr}")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in engine.environment.items():
                patch.setenv(name, value)
            yield engine
    finally:
        engine.close()


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


@pytest.fixture
async def pool(engine):
    async with SandboxPool(engine.name, SMALL, size=2, min_idle=0) as pool:
        yield pool
    assert not engine.containers()


@pytest.fixture
async def sandbox(pool):
    async with pool.acquire() as sandbox:
        yield sandbox


async def test_a_command_runs_in_the_image_as_nobody_special(sandbox):
    result = await sandbox.exec("id -u; pwd; echo $FROM_IMAGE $HOME; cat; ls /", stdin=b"given\n")
    assert result.status is ExecStatus.OK
    first = result.stdout.split()[:5]
    assert first == [b"1000", b"/workspace", b"yes", b"/workspace", b"given"]
    assert b"workspace" in result.stdout
    assert b"\nhome" not in result.stdout


async def test_files_go_in_and_come_out_whole(sandbox):
    await sandbox.write_files({"a/b": b"\x00\xff" * 400_000})
    assert (await sandbox.exec("wc -c < a/b")).stdout == b"800000\n"
    assert await sandbox.read_file("a/b") == b"\x00\xff" * 400_000
    found = await sandbox.snapshot()
    assert found["a/b"].size == 800_000
    await sandbox.exec("rm -r a")
    await sandbox.restore(found)
    assert (await sandbox.exec("wc -c < a/b")).stdout == b"800000\n"


async def test_output_of_any_bytes_comes_back_exact(sandbox):
    detach = bytes([16, 17]) * 5 + bytes(range(256))
    await sandbox.write_files({"bytes": detach})
    assert (await sandbox.exec("cat bytes")).stdout == detach
    assert (await sandbox.exec("cat", stdin=detach[:1])).stdout == detach[:1]


async def test_sessions_jobs_and_checks_work(sandbox):
    python = await sandbox.session(SessionKind.PYTHON)
    assert (await python.run("x = 6")).status is ExecStatus.OK
    assert (await python.run("x * 7")).stdout == b"42\n"
    job = await sandbox.start("echo on; sleep 600")
    assert (await sandbox.exec("echo beside")).stdout == b"beside\n"
    assert (await job.poll()).running
    verdict = await sandbox.check("cat want; touch /workspace/late", files={"want": b"wanted"})
    assert verdict.stdout == b"wanted"
    if sandbox.isolation.limits["check"] == "landlock":
        assert verdict.status is ExecStatus.NONZERO
    assert not (await job.poll()).running


async def test_memory_is_limited_and_the_sandbox_lives_on(sandbox):
    for _ in range(2):
        assert (await sandbox.exec(HOG)).status is ExecStatus.OOM
    assert (await sandbox.exec(HOG.replace("300", "30"))).stdout == b"31457280\n"
    session = await sandbox.session()
    assert (await session.run(HOG)).status is ExecStatus.OOM


async def test_processes_are_limited_per_container(pool):
    count = "n=0; while [ $n -lt 100 ]; do sleep 5 & n=$((n+1)); done; echo all"
    async with pool.acquire() as one, pool.acquire() as other:
        for sandbox in (one, other):
            result = await sandbox.exec(count, timeout_s=20)
            assert b"all" not in result.stdout
            assert (await sandbox.exec("for i in 1 2 3 4 5; do sleep 0.1 & done; wait; echo fits")).stdout


async def test_the_workspace_is_limited(sandbox):
    result = await sandbox.exec("head -c 20000000 /dev/zero > f")
    assert result.status is ExecStatus.DISK_FULL
    assert (await sandbox.exec("wc -c < f; rm f; echo room > g")).stdout == b"%d\n" % SMALL.workspace_bytes


async def test_the_number_of_files_is_limited(engine, sandbox):
    script = "i=0; while : > f$i; do i=$((i+1)); done 2>/dev/null; sleep 1"
    result = await sandbox.exec(script, timeout_s=20)
    if engine.name == "docker":
        assert sandbox.isolation.limits["inodes"] == "tmpfs"
        assert len(await sandbox.list_files()) < SMALL.workspace_inodes
    else:
        assert sandbox.isolation.limits["inodes"] == "watcher"
        assert result.status is ExecStatus.DISK_FULL


async def test_time_is_limited_and_what_was_written_is_kept(sandbox):
    result = await sandbox.exec("trap '' TERM; echo early; sleep 60 & sleep 60", timeout_s=0.5)
    assert (result.status, result.stdout) == (ExecStatus.TIMEOUT, b"early\n")
    assert len((await sandbox.exec("cd /proc; echo [0-9]*")).stdout.split()) == 2


async def test_only_loopback_exists(sandbox):
    script = (
        "import socket\n"
        "here = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(here.getsockname()).close()\n"
        "print([line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line])\n"
        "try:\n socket.create_connection(('192.0.2.1', 80), timeout=2)\n"
        "except OSError as error:\n print(error.strerror)\n"
    )
    await sandbox.write_files({"net.py": script.encode()})
    result = await sandbox.exec("python3 net.py")
    assert result.stdout == b"['lo']\nNetwork is unreachable\n", result.stderr


async def test_no_right_is_left(sandbox):
    status = (await sandbox.exec("cat /proc/self/status")).stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    capabilities = {fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert capabilities == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"], fields["Seccomp_filters"]) == ("1", "2", "2")
    assert (await sandbox.exec("cat /proc/1/environ")).status is ExecStatus.NONZERO
    assert (await sandbox.exec("ls -l /proc/1/fd/")).status is ExecStatus.NONZERO


async def test_nothing_can_be_written_but_the_sized_places(sandbox):
    places = "/ /usr /etc /dev /run /var/tmp /data /home /proc/sys/kernel /sys/fs/cgroup/memory"
    result = await sandbox.exec(f"for d in {places}; do touch $d/x 2>/dev/null && echo $d; done; true")
    assert result.stdout == b""
    mounts = (await sandbox.exec("cat /proc/mounts")).stdout.decode().splitlines()
    writable = {line.split()[1] for line in mounts if line.split()[3].startswith("rw")}
    sized = {"/workspace", "/tmp", "/dev/shm"}
    assert sized <= writable
    for place in sorted(writable - sized):
        touched = await sandbox.exec(f"test -d {place} && touch {place}/x")
        assert touched.status is ExecStatus.NONZERO or place == "/dev/mqueue", place


async def test_a_read_only_bind_is_shown_and_stays_as_it_is(engine, tmp_path):
    (tmp_path / "data").write_text("host")
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(place.stat().st_mode | 0o055)
    spec = SandboxSpec(image=IMAGE, readonly_binds=(str(tmp_path),))
    async with SandboxPool(engine.name, spec, size=1) as pool, pool.acquire() as sandbox:
        result = await sandbox.exec(f"cat {tmp_path}/data; echo x > {tmp_path}/data")
    assert (result.stdout, result.status) == (b"host", ExecStatus.NONZERO)
    assert (tmp_path / "data").read_text() == "host"


async def test_what_the_engine_holds_is_read_from_inside(engine, pool):
    limits = pool.isolation.limits
    assert not pool.isolation.unsafe
    assert pool.isolation.backend == engine.name
    group = limits["memory"]
    assert group in ("cgroup-v1", "cgroup-v2")
    assert (limits["processes"], limits["cpus"]) == (group, group)
    async with pool.acquire() as sandbox:
        spent = await sandbox.exec("while :; do :; done & while :; do :; done", timeout_s=2)
    assert spent.cpu_s is not None
    assert spent.cpu_s < 2 * 0.5 * 1.5


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


async def test_an_image_that_is_nowhere_is_refused(engine):
    spec = SandboxSpec(image="localhost:1/no/such:image")
    started = time.monotonic()
    with pytest.raises(
        SandboxUnavailable, match=f"{engine.name} has no image 'localhost:1/no/such:image' and "
    ):
        async with SandboxPool(engine.name, spec, size=1):
            pass
    assert time.monotonic() - started < 60


FAKE_OLD_PYTHON = """#!/bin/sh
shift 4
exec /usr/bin/{0} -c "import sys; sys.version_info = (3, 9, 2, 'final', 0); exec(sys.argv[1])" "$1"
"""
UNFIT = {
    "its python3 is version 3.9": {
        "extra": {"usr/local/bin/python3": FAKE_OLD_PYTHON.format(images.PYTHON.name)}
    },
    "python3": {"python": False},
    "it has no /bin/sh": {"programs": ()},
}


async def test_volumes_that_cannot_be_left_out_are_refused(engine):
    name = "localhost/atropos-test:volume"
    engine.build(name, images.SHELL, changes=("VOLUME /data",))
    async with contextlib.AsyncExitStack() as stack:
        if engine.name == "docker":
            stack.enter_context(pytest.raises(SandboxUnavailable, match=r"volumes \(/data\)"))
        await stack.enter_async_context(SandboxPool(engine.name, SandboxSpec(image=name), size=1))
    engine.ask("rmi", "--force", name)


@pytest.mark.parametrize("found", UNFIT)
async def test_an_image_that_cannot_hold_a_slot_is_refused_by_name(engine, found):
    name = "localhost/atropos-test:unfit"
    options = {"programs": images.SHELL, **UNFIT[found]}
    engine.build(name, **options)
    with pytest.raises(SandboxUnavailable) as refused:
        async with SandboxPool(engine.name, SandboxSpec(image=name), size=1):
            pass
    assert f"of the image {name!r}: " in str(refused.value)
    assert found in str(refused.value).partition("an image for slots has")[0]
    assert not engine.containers()
    engine.ask("rmi", "--force", name)


@pytest.mark.parametrize("backend", ["docker", "podman"])
async def test_an_engine_that_is_not_there_is_refused(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=f"{backend} is not installed; .*--sandbox.backend="):
        async with SandboxPool(backend, SMALL, size=1):
            pass


async def test_a_docker_without_its_daemon_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    expected = "docker does not serve: .*daemon" if shutil.which("docker") else "docker is not installed"
    with pytest.raises(SandboxUnavailable, match=f"(?s){expected}.*--sandbox.backend=podman"):
        async with SandboxPool("docker", SMALL, size=1):
            pass


@pytest.mark.parametrize("backend", ["auto", "native", "bubblewrap", "local"])
def test_an_image_is_refused_where_nothing_can_run_it(backend):
    with pytest.raises(ConfigError, match=f"{backend} cannot run the image 'python:3-slim': .*docker"):
        SandboxPool(backend, SandboxSpec(image="python:3-slim"))


@pytest.mark.parametrize(
    ("image", "reason"), [("", "needs an image"), ("--privileged", "the name of an image")]
)
@pytest.mark.parametrize("backend", ["docker", "podman"])
def test_containers_need_an_image(backend, image, reason):
    with pytest.raises(ConfigError, match=reason):
        SandboxPool(backend, SandboxSpec(image=image))
