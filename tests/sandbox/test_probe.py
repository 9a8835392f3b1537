import asyncio

import pytest

from atropos_agent.errors import ConfigError, SandboxError, SandboxUnavailable
from atropos_agent.sandbox import SandboxPool, SandboxSpec, probe_backend
from atropos_agent.sandbox.remedy import remedies
from tests.sandbox.conftest import as_ordinary_user

pytestmark = pytest.mark.integration


async def test_readonly_directories_are_shown_and_cannot_be_changed(package_root):
    directory = package_root / "shown"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "f").write_text("data")
    (directory / "f").chmod(0o666)
    for backend in ("native", "bubblewrap"):
        spec = SandboxSpec(readonly_binds=(str(directory),))
        async with SandboxPool(backend, spec, size=1) as pool, pool.acquire() as sandbox:
            result = await sandbox.exec(f"cat {directory}/f; echo x > {directory}/f; echo x > {directory}/g")
        assert result.stdout == b"data"
        assert result.stderr.count(b"Read-only file system") == 2
    assert [path.name for path in directory.iterdir()] == ["f"]


async def test_a_bind_that_cannot_be_shown_is_named():
    with pytest.raises(SandboxUnavailable, match=r"native: .*bind /no/such/place: No such file"):
        await SandboxPool("native", SandboxSpec(readonly_binds=("/no/such/place",))).__aenter__()


async def test_the_probe_tells_what_is_enforced():
    isolation = await probe_backend()
    assert (isolation.backend, isolation.unsafe) == ("native", False)
    local = await probe_backend("local")
    assert local.unsafe
    assert local.limits["memory"] == local.limits["network"] == "none"


async def test_what_cannot_be_is_said_at_once():
    with pytest.raises(ConfigError, match=r"'firecracker'; there are: auto, .*, docker, podman"):
        SandboxPool("firecracker")
    with pytest.raises(ConfigError, match="at least 1"):
        SandboxPool(size=0)
    with pytest.raises(SandboxError, match="not open"):
        async with SandboxPool("native").acquire():
            pass


@pytest.mark.parametrize("backend", ["auto", "native", "bubblewrap"])
async def test_a_machine_without_user_namespaces_is_refused_with_the_remedy(package_root, backend):
    script = str(package_root / "tests/sandbox/no_namespaces.py")
    process = await asyncio.create_subprocess_exec(
        *as_ordinary_user(), script, str(package_root), backend, stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode()
    assert said.startswith("within two seconds: no sandbox is available."), said
    for name in ("native", "bubblewrap") if backend == "auto" else (backend,):
        assert f"{name}: " in said
    assert "sysctl -w user.max_user_namespaces=15000" in said
    assert "UNSAFE" in said


def test_other_systems_are_told_what_they_can_do():
    assert "this is darwin" in remedies([], platform="darwin")


def test_a_masked_proc_points_at_the_containers_flags():
    assert "systempaths=unconfined" in remedies(["native: mount proc /proc: Operation not permitted"])
