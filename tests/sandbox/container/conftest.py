"""Sandboxes in real containers, of podman, or with `--container-engine=docker` of docker."""

import pytest

from atropos_agent.sandbox import SandboxPool, SandboxSpec
from tests.sandbox.container import images
from tests.sandbox.container.engines import ENGINES, CannotRun

IMAGE = "localhost/atropos-test:full"
SMALL = SandboxSpec(
    image=IMAGE,
    workspace_bytes=8 << 20,
    workspace_inodes=200,
    memory_bytes=96 << 20,
    processes=40,
    cpus=0.5,
)


@pytest.fixture(scope="package")
def engine(request, tmp_path_factory):
    """A podman or docker of our own with an image in it."""
    name = request.config.getoption("--container-engine")
    try:
        engine = ENGINES[name](tmp_path_factory.mktemp(name))
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


@pytest.fixture
async def pool(engine):
    async with SandboxPool(engine.name, SMALL, size=2, min_idle=0) as pool:
        yield pool
    assert not engine.containers()


@pytest.fixture
async def sandbox(pool):
    async with pool.acquire() as sandbox:
        yield sandbox
