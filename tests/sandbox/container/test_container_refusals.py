"""What cannot run a slot is refused by name, with what was found and the way out."""

import contextlib
import shutil
import time

import pytest

from atropos_agent.errors import ConfigError, SandboxUnavailable
from atropos_agent.sandbox import SandboxPool, SandboxSpec
from tests.sandbox.container import images
from tests.sandbox.container.conftest import SMALL

pytestmark = pytest.mark.integration

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


async def test_an_image_that_is_nowhere_is_refused(engine):
    spec = SandboxSpec(image="localhost:1/no/such:image")
    started = time.monotonic()
    with pytest.raises(
        SandboxUnavailable, match=f"{engine.name} has no image 'localhost:1/no/such:image' and "
    ):
        async with SandboxPool(engine.name, spec, size=1):
            pass
    assert time.monotonic() - started < 60


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
