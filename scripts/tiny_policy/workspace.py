"""A task's workspace as a plain temporary folder: only for commands of our own reference solutions.

There is no isolation here. Commands of a model run in the sandbox (`measure_tiny_policy.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atropos_agent.sandbox.protocol import FileEntry
from atropos_agent.trajectory import ToolResult
from atropos_environments.terminal_tasks.task import Task

MEMORY_FOLDER = Path("/dev/shm")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}


@contextmanager
def workspace(task: Task) -> Iterator[Path]:
    """A fresh folder holding the task's files, deleted at the end."""
    # In memory where possible: training makes hundreds of thousands of these folders.
    parent = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    root = Path(tempfile.mkdtemp(prefix="tiny-policy-", dir=parent))
    try:
        for path, data in task.files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o644)
        if task.setup_command:
            execute(root, task.setup_command)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def execute(root: Path, command: str) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of one command of ours."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=root,
        env={**ENVIRONMENT, "HOME": str(root)},
        capture_output=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def observed(exit_code: int | None, stdout: bytes, stderr: bytes) -> ToolResult:
    """The result that the terminal tool gives for a finished command."""
    output = stdout.decode(errors="replace").rstrip("\n")
    if stderr:
        errors = f"[stderr]\n{stderr.decode(errors='replace').rstrip(chr(10))}"
        output = f"{output}\n{errors}" if output else errors
    return ToolResult(exit_code == 0, output, "" if exit_code == 0 else f"Exit code: {exit_code}")


def snapshot(root: Path) -> dict[str, FileEntry]:
    """The folder in the form that the sandbox's `snapshot` gives."""
    entries: dict[str, FileEntry] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            status = path.lstat()
            mode = status.st_mode & 0o7777
            relative = str(path.relative_to(root))
            if path.is_symlink():
                entries[relative] = FileEntry("symlink", mode, status.st_size, target=str(path.readlink()))
            elif path.is_dir():
                entries[relative] = FileEntry("dir", mode, status.st_size)
            else:
                data, links = path.read_bytes(), status.st_nlink
                entries[relative] = FileEntry("file", mode, status.st_size, data, links=links)
    return entries
