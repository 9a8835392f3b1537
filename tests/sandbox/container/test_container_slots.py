"""What a slot in a container does, and what it cannot."""

import pytest

from atropos_agent.sandbox import ExecStatus, SandboxPool, SandboxSpec, SessionKind, probe_backend
from tests.sandbox.container.conftest import IMAGE, SMALL

pytestmark = pytest.mark.integration

HOG = "python3 -c 'x = bytearray(300 << 20); print(len(x))'"


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


async def test_a_workspace_starts_with_a_template(engine, tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "file").write_text("from the host")
    spec = SandboxSpec(image=IMAGE, template=str(tmp_path))
    async with SandboxPool(engine.name, spec, size=1) as pool, pool.acquire() as sandbox:
        result = await sandbox.exec("cat part/file; echo changed > part/file")
    assert (result.stdout, result.status) == (b"from the host", ExecStatus.OK)
    assert (tmp_path / "part" / "file").read_text() == "from the host"


async def test_an_emptied_container_is_as_good_as_new(engine):
    async with SandboxPool(engine.name, SMALL, size=1, min_idle=0, max_uses=2) as pool:
        async with pool.acquire() as first:
            await first.exec("echo x > f; echo x > /tmp/f; echo x > /dev/shm/f; sleep 600 &")
        left = engine.containers()
        async with pool.acquire() as second:
            found = await second.exec("ls -A /workspace /tmp /dev/shm /dev/mqueue | wc -w; echo /proc/[0-9]*")
            assert engine.containers() == left
    assert found.stdout.split()[0] == b"4"
    assert len(found.stdout.split()) == 3


async def test_a_backend_is_probed_with_its_image(engine):
    isolation = await probe_backend(engine.name, SMALL)
    assert isolation.backend == engine.name
    assert isolation.limits["memory"].startswith("cgroup-")


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
