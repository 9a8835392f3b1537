"""Sandboxes of every kind for the tests: each backend, driven by root and by an ordinary user."""

import asyncio
import dataclasses
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
from atropos_agent.sandbox import ExecResult, ExecStatus, FileEntry, Isolation, JobReport
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
        self.kind = kind
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
        return result_of(await self._call("exec", command, **options))

    async def start(self, command, **options):
        return DrivenJob(self.driver, await self._call("start", command, **options))

    async def session(self, kind="shell", **options):
        return DrivenSession(self.driver, await self._call("session", kind, **options))

    async def check(self, command, **options):
        return result_of(await self._call("check", command, **options))

    async def reset(self):
        return await self._call("reset")

    async def list_files(self, *args):
        return entries_of(await self._call("list_files", *args))

    async def restore(self, entries):
        await self._call("restore", {path: dataclasses.asdict(entry) for path, entry in entries.items()})

    async def archive(self, **options):
        return decoded(await self._call("archive", **options))

    async def extract(self, archive):
        await self._call("extract", archive)

    async def read_file(self, path, **options):
        return decoded(await self._call("read_file", path, **options))

    async def write_files(self, files, **options):
        await self._call("write_files", files, **options)

    async def snapshot(self, **options):
        return entries_of(await self._call("snapshot", **options))

    async def close(self):
        await self._call("close")

    async def _call(self, method, *args, **options):
        return await asyncio.to_thread(self.driver.call, self._name, method, *args, **options)


class DrivenJob:
    """A background job of such a sandbox."""

    def __init__(self, driver, name):
        self._driver, self._name = driver, name

    async def poll(self):
        return self._report(await asyncio.to_thread(self._driver.call, self._name, "poll"))

    async def kill(self):
        return self._report(await asyncio.to_thread(self._driver.call, self._name, "kill"))

    @staticmethod
    def _report(result):
        status = None if result["status"] is None else ExecStatus(result["status"])
        return JobReport(**{**decoded(result), "status": status})


class DrivenSession:
    """A session of such a sandbox."""

    def __init__(self, driver, name):
        self._driver, self._name, self.alive = driver, name, True

    async def run(self, text, **options):
        result, self.alive = await asyncio.to_thread(self._driver.call, self._name, "run", text, **options)
        return result_of(result)

    async def close(self):
        await asyncio.to_thread(self._driver.call, self._name, "close")


def result_of(answer):
    return ExecResult(**{**decoded(answer), "status": ExecStatus(answer["status"])})


def entries_of(answer):
    return {path: FileEntry(**decoded(entry)) for path, entry in answer.items()}


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
