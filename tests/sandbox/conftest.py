"""Sandboxes of every kind for the tests: each backend, driven by root and by an ordinary user."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import atropos_agent
from atropos_agent.sandbox import ExecResult, ExecStatus, FileEntry, Isolation
from tests.sandbox.driver import decoded, encoded

ORDINARY_UID = 4_242
SECRET_NAME = "CANARY_API_KEY"
SECRET = "sk-canary-5f1b9e"
USERS = ("root", "user") if os.geteuid() == 0 else ("user",)
ISOLATED = [f"{backend}-as-{user}" for backend in ("native", "bubblewrap") for user in USERS]
NATIVE = [kind for kind in ISOLATED if kind.startswith("native")]
LOCAL = [f"local-as-{user}" for user in USERS]


def as_ordinary_user():
    """A command that runs python as somebody who is not root, and cannot read root's files."""
    if os.geteuid() != 0:
        return [sys.executable]
    identity = ["--reuid", str(ORDINARY_UID), "--regid", str(ORDINARY_UID), "--clear-groups"]
    return ["setpriv", *identity, "/usr/bin/python3"]


class Driver:
    """A trainer process of one kind (`backend-as-user`) and the calls into it, started by `through`."""

    def __init__(self, kind, package_root, *, spec=None, through=()):
        backend, user = kind.split("-as-")
        command = [sys.executable, str(package_root / "tests/sandbox/driver.py"), str(package_root), backend]
        if user == "user":
            command = [*as_ordinary_user(), *command[1:]]
        self._process = subprocess.Popen(
            [*through, *command, json.dumps(spec or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.defpath, SECRET_NAME: SECRET},
            cwd="/",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()
        self._count = 0
        first = self._answers.readline()
        assert first, f"the {backend} driver did not start"
        self.isolation = Isolation(**json.loads(first)["isolation"])

    @property
    def pid(self):
        return self._process.pid

    def call(self, sandbox, method, *args, **options):
        request = {"sandbox": sandbox, "method": method, "args": [encoded(arg) for arg in args]}
        with self._lock:
            self._requests.write(json.dumps({**request, "options": encoded(options)}).encode() + b"\n")
            self._requests.flush()
            answer = json.loads(self._answers.readline())
        if "error" in answer:
            if answer["errno"] is not None:
                raise OSError(answer["errno"], answer["text"])
            raise RuntimeError(f"{answer['error']}: {answer['text']}")
        return answer["result"]

    def name(self):
        self._count += 1
        return str(self._count)

    def close(self):
        self._requests.close()
        code = self._process.wait(20)
        self._answers.close()
        assert code == 0

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()


class DrivenSandbox:
    """A sandbox that lives in a driver process."""

    def __init__(self, driver):
        self.driver = driver
        self._name = driver.name()
        driver.call(self._name, "open")

    @property
    def isolation(self):
        return self.driver.isolation

    async def exec(self, command, **options):
        result = await asyncio.to_thread(self.driver.call, self._name, "exec", command, **options)
        return ExecResult(**{**decoded(result), "status": ExecStatus(result["status"])})

    async def read_file(self, path, **options):
        return decoded(await asyncio.to_thread(self.driver.call, self._name, "read_file", path, **options))

    async def write_files(self, files, **options):
        await asyncio.to_thread(self.driver.call, self._name, "write_files", files, **options)

    async def snapshot(self, **options):
        result = await asyncio.to_thread(self.driver.call, self._name, "snapshot", **options)
        return {path: FileEntry(**decoded(entry)) for path, entry in result.items()}

    async def close(self):
        await asyncio.to_thread(self.driver.call, self._name, "close")


@pytest.fixture(scope="session")
def package_root():
    """A copy of what a driver needs, readable by every user (pytest's own directories are not)."""
    with tempfile.TemporaryDirectory(prefix="sandbox-tests-") as directory:
        root = Path(directory)
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(atropos_agent.__file__).parent, root / "atropos_agent", ignore=unneeded)
        shutil.copytree(Path(__file__).parent, root / "tests/sandbox", ignore=unneeded)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield root


@pytest.fixture(scope="session")
def drivers(package_root):
    """kind -> Driver, started when first asked for."""
    started = {}

    def get(kind):
        if kind not in started:
            started[kind] = Driver(kind, package_root)
        return started[kind]

    yield get
    for driver in started.values():
        driver.close()


@pytest.fixture(params=ISOLATED)
async def sandbox(request, drivers):
    """A fresh isolated sandbox, of each backend and user."""
    driven = DrivenSandbox(drivers(request.param))
    yield driven
    await driven.close()


@pytest.fixture(params=[*ISOLATED, *LOCAL])
async def any_sandbox(request, drivers):
    """A fresh sandbox of each kind, local included."""
    driven = DrivenSandbox(drivers(request.param))
    yield driven
    await driven.close()


@pytest.fixture(params=LOCAL)
async def local_sandbox(request, drivers):
    """The positive control: no isolation."""
    driven = DrivenSandbox(drivers(request.param))
    yield driven
    await driven.close()
