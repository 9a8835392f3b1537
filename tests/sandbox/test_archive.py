"""The far side's code as it is shipped."""

import importlib.util
import io
import subprocess
import sys
import zipfile

import pytest

from atropos_agent.sandbox.archive import archive

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from atropos_agent.sandbox.inside import supervisor
print(supervisor.__file__, supervisor.__doc__ is None)
"""


def of_another_version(shipped):
    """The archive as an interpreter sees it that compiles to something else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(shipped)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".pyc"):
                assert content.startswith(importlib.util.MAGIC_NUMBER)
                content = b"\0\0\r\n" + content[4:]
            target.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "ending", "stripped"),
    [(archive(), ".pyc", True), (of_another_version(archive()), ".py", False)],
    ids=["ours", "another"],
)
def test_an_interpreter_runs_what_is_compiled_for_it_and_else_the_text(tmp_path, content, ending, stripped):
    path = tmp_path / "archive.zip"
    path.write_bytes(content)
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", LOAD, str(path)], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == f"{path}/atropos_agent/sandbox/inside/supervisor{ending} {stripped}\n"
