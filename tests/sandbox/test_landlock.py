"""Writes confined to named places, tried by a process of its own and by a shell that it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atropos_agent.sandbox.inside import linux

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(linux.landlock_abi() == 0, reason="this kernel has no Landlock"),
]

SCRIPT = """
import errno, json, os, socket, subprocess, sys
from atropos_agent.sandbox.inside import linux

root, allowed = sys.argv[1], json.loads(sys.argv[2])

def created(path, flags=0):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644))

def bound(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)

def by_shell(command):
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(errno.EACCES, command)

def acts(place):
    at = lambda name: f"{root}/{place}/{name}"
    return {
        "write": lambda: created(at("present")),
        "truncate by open": lambda: os.close(os.open(at("present"), os.O_RDONLY | os.O_TRUNC)),
        "truncate": lambda: os.truncate(at("present"), 1),
        "create": lambda: created(at("new"), os.O_EXCL),
        "mkdir": lambda: os.mkdir(at("newdir")),
        "symlink": lambda: os.symlink("/", at("link")),
        "hard link": lambda: os.link(at("present"), at("hard")),
        "fifo": lambda: os.mkfifo(at("fifo")),
        "socket": lambda: bound(at("socket")),
        "rename": lambda: os.rename(at("moved"), at("moved2")),
        "move in": lambda: os.rename(f"{root}/stock/{place}", at("from_stock")),
        "unlink": lambda: os.unlink(at("doomed")),
        "rmdir": lambda: os.rmdir(at("empty")),
        "by a child": lambda: by_shell(f"echo x > {at('by_shell')}"),
        "after asking for more": lambda: (widen(), created(at("widened"), os.O_EXCL)),
    }

def widen():
    if allowed is not None:
        linux.restrict_writes(["/"])

def outcome(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

if allowed is not None:
    linux.restrict_writes(allowed)
answer = {place: {name: outcome(act) for name, act in acts(place).items()} for place in ("in", "out")}
answer["read"] = open(f"{root}/out/readable").read()
answer["file"] = outcome(lambda: created(f"{root}/single")), outcome(lambda: os.unlink(f"{root}/single"))
answer["null"] = outcome(lambda: created("/dev/null"))
print(json.dumps(answer))
"""


@pytest.fixture
def root(tmp_path):
    for place in ("in", "out"):
        (tmp_path / place / "empty").mkdir(parents=True)
        for name in ("present", "moved", "doomed", "readable"):
            (tmp_path / place / name).write_text(name)
    (tmp_path / "stock").mkdir()
    for name in ("stock/in", "stock/out", "single"):
        (tmp_path / name).touch()
    return tmp_path


def run_python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_without_a_restriction_everything_can_be_written(root):
    answer = run_python(SCRIPT, str(root), "null")
    assert set(answer["in"].values()) | set(answer["out"].values()) | set(answer["file"]) == {"done"}


def test_writes_are_impossible_but_beneath_what_is_allowed(root):
    allowed = [str(root / "in"), str(root / "stock"), str(root / "single"), "/dev/null"]
    answer = run_python(SCRIPT, str(root), json.dumps(allowed))
    assert set(answer["in"].values()) == {"done"}
    assert set(answer["out"].values()) <= {"EACCES", "EXDEV"}
    assert answer["read"] == "readable"
    assert answer["file"] == ["done", "EACCES"]
    assert answer["null"] == "done"


def test_nothing_allowed_is_nothing_written(root):
    answer = run_python(SCRIPT, str(root), "[]")
    assert "done" not in {*answer["in"].values(), *answer["out"].values(), *answer["file"], answer["null"]}


def test_a_place_that_is_not_there_is_named(root):
    code = (
        "import json, sys\n"
        "from atropos_agent.sandbox.inside import linux\n"
        "try: linux.restrict_writes([sys.argv[1]])\n"
        "except FileNotFoundError as error: print(json.dumps(error.filename))"
    )
    assert run_python(code, str(root / "absent")) == str(root / "absent")


def test_a_kernel_without_it_has_version_0_and_refuses():
    """A filter under which the system call does not exist, as in a kernel that was built without."""
    code = (
        "import errno, json, struct\n"
        "from atropos_agent.sandbox.inside import linux\n"
        "before = linux.landlock_abi()\n"
        "code = [(32, 0, 0, 0), (21, 0, 1, 444), (6, 0, 0, 0x50000 | errno.ENOSYS), (6, 0, 0, 0x7FFF0000)]\n"
        "linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n"
        "linux.Filter(b''.join(struct.pack('HBBI', *line) for line in code)).install()\n"
        "try: linux.restrict_writes(['/'])\n"
        "except OSError as error: print(json.dumps([before, linux.landlock_abi(), error.errno]))"
    )
    before, after, code = run_python(code)
    assert before > 0
    assert (after, code) == (0, 38)
