import os
import tempfile
from pathlib import Path

import pytest

from atropos_agent.errors import SandboxError, SandboxUnavailable
from atropos_agent.sandbox import ExecStatus, SandboxPool, SandboxSpec
from tests.sandbox.conftest import ISOLATED, LOCAL, ORDINARY_UID, DrivenSandbox, Driver

pytestmark = pytest.mark.integration


def make_template(place, user):
    """A small repository, owned by whoever the trainer is."""
    root = place / f"template of {user}, with:odd\\name"
    (root / "src/deep").mkdir(parents=True)
    (root / "src/deep/a.py").write_text("print(1)\n")
    (root / "run.sh").write_text("echo run\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("src/deep/a.py")
    if user == "user" and os.geteuid() == 0:
        for path in (root, *root.rglob("*")):
            os.chown(path, ORDINARY_UID, ORDINARY_UID, follow_symlinks=False)
    return root


@pytest.fixture(scope="module")
def templates():
    with tempfile.TemporaryDirectory(prefix="sandbox-templates-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        yield {user: make_template(place, user) for user in ("root", "user")}


def content(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", [*ISOLATED, *LOCAL])
async def test_a_workspace_starts_with_its_template_and_leaves_it_as_it_is(package_root, templates, kind):
    template = templates[kind.split("-as-")[1]]
    before = content(template)
    driver = Driver(kind, package_root, spec={"template": str(template)})
    first, second = DrivenSandbox(driver), DrivenSandbox(driver)
    result = await first.exec("./run.sh; cat link; stat -c %a run.sh; ls -A")
    assert result.stdout == b"run\nprint(1)\n755\nlink\nrun.sh\nsrc\n"
    changed = await first.exec(
        "set -e; echo more >> src/deep/a.py; rm run.sh; mkdir src/new; mv src/deep src/moved; cat src/*/a.py"
    )
    assert (changed.status, changed.stdout) == (ExecStatus.OK, b"print(1)\nmore\n"), changed
    assert set(await first.snapshot()) == {"link", "src", "src/new", "src/moved", "src/moved/a.py"}
    assert set(await second.snapshot()) == {"link", "run.sh", "src", "src/deep", "src/deep/a.py"}
    assert content(template) == before
    for sandbox in (first, second):
        await sandbox.close()
    driver.close()


@pytest.mark.parametrize("kind", ISOLATED)
async def test_what_is_added_to_a_template_is_limited_and_it_is_not_used_twice(package_root, templates, kind):
    spec = {"template": str(templates[kind.split("-as-")[1]]), "workspace_bytes": 2 << 20}
    driver = Driver(kind, package_root, spec=spec)
    sandbox = DrivenSandbox(driver)
    result = await sandbox.exec("head -c 4000000 /dev/zero > big")
    assert result.status is ExecStatus.DISK_FULL
    assert (await sandbox.check("cat /workspace/run.sh")).stdout == b"echo run\n"
    assert await sandbox.reset() is False
    await sandbox.close()
    driver.close()


@pytest.mark.parametrize("path", ["relative", "/none", "/etc/passwd"])
async def test_a_template_that_is_no_directory_is_refused(path):
    with pytest.raises(SandboxUnavailable, match="is not the absolute path of a directory"):
        await SandboxPool("native", SandboxSpec(template=path)).__aenter__()


async def test_a_template_that_does_not_fit_is_refused(templates, tmp_path):
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    async with SandboxPool("bubblewrap") as pool:
        with pytest.raises(SandboxError, match=r"does not fit into a workspace: .*big.*space"):
            async with pool.acquire(spec=SandboxSpec(template=str(tmp_path), workspace_bytes=1 << 20)):
                pass
        async with pool.acquire(spec=SandboxSpec(template=str(templates["root"]))) as sandbox:
            assert (await sandbox.exec("./run.sh")).stdout == b"run\n"
