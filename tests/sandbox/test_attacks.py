"""What a command may try to get out, and what it meets; the control gets through without a sandbox."""

import json
import os
import socket
import tempfile
from pathlib import Path

import pytest

from tests.sandbox.conftest import SECRET, SECRET_NAME

pytestmark = pytest.mark.integration

SCRIPT = (Path(__file__).parent / "attacks.py").read_bytes()
ALLOWED = {"own loopback"}
LEAKS_WITHOUT_SANDBOX = [
    "AF_NETLINK",
    "host TCP",
    "host abstract socket",
    "host path socket",
    "host file",
    "host process",
    "secret in environ",
    "nested userns by clone",
    "userfaultfd",
    "keyctl",
    "io_uring",
]


@pytest.fixture
def target(package_root):
    """Things of the host that a sandbox must not reach: listeners, a file, and (added per test) a process."""
    directory = Path(tempfile.mkdtemp(dir=package_root))
    directory.chmod(0o755)
    bait = directory / "file"
    bait.write_text("bait")
    path_socket = str(directory / "socket")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as by_path,
    ):
        abstract.bind(f"\0atropos-bait-{os.getpid()}")
        by_path.bind(path_socket)
        Path(path_socket).chmod(0o777)
        for listener in (abstract, by_path):
            listener.listen()
        yield {
            "port": tcp.getsockname()[1],
            "abstract": f"atropos-bait-{os.getpid()}",
            "path_socket": path_socket,
            "file": str(bait),
            "secret": SECRET,
            "secret_name": SECRET_NAME,
        }


async def attack(sandbox, target, chosen=()):
    await sandbox.write_files({"attacks.py": SCRIPT})
    arguments = json.dumps({**target, "pid": sandbox.driver.pid})
    names = " ".join(f"'{name}'" for name in chosen)
    result = await sandbox.exec(f"/usr/bin/python3 attacks.py '{arguments}' {names}")
    assert result.exit_code == 0, result.stderr.decode()
    return json.loads(result.stdout)


async def test_every_way_out_is_closed(sandbox, target):
    outcomes = await attack(sandbox, target)
    assert {name for name, met in outcomes.items() if met == "GOT THROUGH"} == ALLOWED
    assert outcomes["AF_VSOCK"] == outcomes["AF_NETLINK"] == "EAFNOSUPPORT"
    assert outcomes["core_pattern"] in ("EACCES", "EPERM")
    assert outcomes["host process"] == "ESRCH"


async def test_without_a_sandbox_the_same_attempts_get_through(local_sandbox, target):
    outcomes = await attack(local_sandbox, target, LEAKS_WITHOUT_SANDBOX)
    assert set(outcomes.values()) == {"GOT THROUGH"}, outcomes


async def test_a_command_inherits_only_its_three_streams(sandbox):
    result = await sandbox.exec("for n in $(seq 0 99); do [ -e /proc/$$/fd/$n ] && echo $n; done; true")
    assert result.stdout.split() == [b"0", b"1", b"2"]


async def test_a_long_script_leaves_no_descriptor_to_what_it_starts(sandbox):
    result = await sandbox.exec("ls /proc/self/fd | wc -l #" + "x" * 130_000)
    assert result.stdout.strip() == b"4"  # the directory itself is the fourth


async def test_only_the_supervisor_and_the_command_are_visible(sandbox):
    result = await sandbox.exec("cd /proc; echo [0-9]*")
    assert len(result.stdout.split()) == 2


async def test_the_environment_holds_only_what_we_set(sandbox):
    result = await sandbox.exec("env", env={"TASK": "a b=c"})
    names = {line.split(b"=")[0] for line in result.stdout.splitlines()}
    assert names == {
        b"HOME",
        b"LANG",
        b"LOGNAME",
        b"PATH",
        b"PWD",
        b"SHELL",
        b"TASK",
        b"TERM",
        b"TMPDIR",
        b"USER",
    }


@pytest.mark.parametrize(
    "number", ["KILL", "STOP", "TERM", "INT", "HUP", "QUIT", "USR1", "ABRT", "SEGV", "PIPE"]
)
async def test_signals_from_inside_do_not_touch_pid_1(sandbox, number):
    await sandbox.exec(f"kill -{number} 1; kill -{number} -1", timeout_s=0.3)
    assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_mounts_end_with_no_way_back_to_the_host(sandbox):
    result = await sandbox.exec("ls -a / | sort | tr '\\n' ' '; cat /proc/self/mountinfo | wc -l; ls /.host")
    names = result.stdout.split()
    assert set(names) - {b"lib32", b"libx32"} >= {
        b"bin",
        b"dev",
        b"etc",
        b"lib",
        b"proc",
        b"tmp",
        b"usr",
        b"workspace",
    }
    assert not {b"root", b"home", b"var", b"sys", b"run", b"opt", b"mnt"} & set(names)
    assert b"No such file" in result.stderr
