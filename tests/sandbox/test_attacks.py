"""What a command may try to get out, and what it meets; the control gets through without a sandbox."""

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.sandbox.conftest import SECRET, SECRET_NAME, USERS, as_ordinary_user

pytestmark = pytest.mark.integration

SCRIPT = (Path(__file__).parent / "attacks.py").read_bytes()
ALLOWED = {"own loopback"}
EVERYBODY, ROOT = "everybody", "root"
# What stops an attempt, and who gets through without a sandbox, or why nobody does.
ROWS = {
    "AF_VSOCK": ("seccomp", EVERYBODY),
    "AF_NETLINK": ("seccomp", EVERYBODY),
    "AF_PACKET": ("seccomp", ROOT),
    "AF_ALG": ("seccomp", "the kernel here has no such sockets; seccomp refuses it as it refuses AF_NETLINK"),
    "host TCP": ("network namespace", EVERYBODY),
    "host abstract socket": ("network namespace", EVERYBODY),
    "host path socket": ("empty root", EVERYBODY),
    "host file": ("empty root", EVERYBODY),
    "file of host's home": ("empty root", EVERYBODY),
    "file of host's root": ("empty root", ROOT),
    "host process": ("pid namespace", EVERYBODY),
    "strangers in /proc": ("pid namespace", EVERYBODY),
    "secret in environ": ("empty environment, pid namespace", EVERYBODY),
    "core_pattern": ("never the host's root", ROOT),
    "nested userns by unshare": ("seccomp", EVERYBODY),
    "nested userns by clone": ("seccomp", EVERYBODY),
    "userfaultfd": ("seccomp", EVERYBODY),
    "keyctl": ("seccomp", EVERYBODY),
    "io_uring": ("seccomp", EVERYBODY),
    "memory of a process": ("pid 1 is not dumpable", EVERYBODY),
    "environ of a process": ("pid 1 is not dumpable", EVERYBODY),
    "descriptors of a process": ("pid 1 is not dumpable", EVERYBODY),
    "root of a process": ("pid 1 is not dumpable", EVERYBODY),
    "ptrace": ("seccomp", EVERYBODY),
    "process_vm_readv": ("seccomp", EVERYBODY),
    "pidfd_getfd": ("seccomp", EVERYBODY),
    "limit a process": ("seccomp", EVERYBODY),
    "mount": ("seccomp, no capabilities", ROOT),
    "umount": ("seccomp, no capabilities", ROOT),
    "pivot_root": (
        "seccomp, no capabilities",
        "needs a root that may be moved, which no host has; mount and umount stand for it",
    ),
    "chroot": ("seccomp, no capabilities", ROOT),
    "setns": ("seccomp, no capabilities", ROOT),
    "bpf": ("seccomp", ROOT),
    "perf": ("seccomp", ROOT),
    "TIOCSTI": ("seccomp", EVERYBODY),
    "write /usr": ("read-only binds", ROOT),
    "write /etc": ("read-only root", ROOT),
    "write /dev": ("read-only root", ROOT),
    "write /": ("read-only root", ROOT),
    "write /var/tmp": ("empty root", EVERYBODY),
    "read /etc/shadow": ("empty root", ROOT),
    "list /root": ("empty root", ROOT),
    "list /home": ("empty root", EVERYBODY),
    "list /var": ("empty root", EVERYBODY),
    "make device": ("no capabilities", ROOT),
    "own loopback": ("nothing: tests of servers need it", EVERYBODY),
}
# Settings by which a kernel refuses an attempt to everybody.
KERNEL_SETTINGS = {
    "TIOCSTI": ("dev/tty/legacy_tiocsti", "0"),
    "io_uring": ("kernel/io_uring_disabled", "2"),
}


@pytest.fixture(scope="module")
def target(package_root):
    """Things of the host that a sandbox must not reach: listeners and files."""
    directory = Path(tempfile.mkdtemp(dir=package_root))
    directory.chmod(0o755)
    home = Path("/home") if os.geteuid() == 0 else Path.home()
    baits = {
        "file": directory / "file",
        "home_file": home / f"atropos-bait-{os.getpid()}",
        "root_file": directory / "of-root",
    }
    for bait in baits.values():
        bait.write_text("bait")
        bait.chmod(0o644)
    baits["root_file"].chmod(0o600)
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
            listener.listen(64)
        yield {
            "port": tcp.getsockname()[1],
            "abstract": f"atropos-bait-{os.getpid()}",
            "path_socket": path_socket,
            "secret": SECRET,
            **{name: str(bait) for name, bait in baits.items()},
        }
    baits["home_file"].unlink()


@pytest.fixture
def decoys():
    """A process of each user, with the secret in its environment."""
    environment = {SECRET_NAME: SECRET}
    commands = {"root": ["sleep", "300"], "user": [*as_ordinary_user()[:-1], "sleep", "300"]}
    processes = {user: subprocess.Popen(commands[user], env=environment) for user in USERS}
    yield {user: process.pid for user, process in processes.items()}
    for process in processes.values():
        process.kill()
        process.wait()


def setting(path):
    place = Path("/proc/sys", path)
    return place.read_text().strip() if place.exists() else ""


def kernel_has_vsock():
    try:
        socket.socket(40, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


async def attack(sandbox, target, *, victim, local=False):
    """What each attempt met. `victim` is the process that those against a single one try."""
    await sandbox.write_files({"attacks.py": SCRIPT})
    arguments = json.dumps({**target, "pid": sandbox.driver.pid, "victim": victim, "local": local})
    result = await sandbox.exec(f"/usr/bin/python3 attacks.py '{arguments}'")
    assert result.exit_code == 0, result.stderr.decode()
    return json.loads(result.stdout)


async def test_every_way_out_is_closed(sandbox, target):
    outcomes = await attack(sandbox, target, victim=1)
    assert set(outcomes) == set(ROWS)
    assert "died" not in outcomes.values(), outcomes
    assert {name for name, met in outcomes.items() if met == "GOT THROUGH"} == ALLOWED
    assert outcomes["AF_VSOCK"] == outcomes["AF_NETLINK"] == "EAFNOSUPPORT"
    assert outcomes["core_pattern"] in ("EACCES", "EPERM")
    assert outcomes["host process"] == "ESRCH"


async def test_without_a_sandbox_the_same_attempts_get_through(local_sandbox, target, decoys):
    user = local_sandbox.driver.kind.split("-as-")[1]
    outcomes = await attack(local_sandbox, target, victim=decoys[user], local=True)
    assert "died" not in outcomes.values(), outcomes
    through = {name for name, met in outcomes.items() if met == "GOT THROUGH"}
    assert set(outcomes) == set(ROWS), "each attempt has a control, or a reason why there is none"
    who = (EVERYBODY, ROOT) if user == "root" else (EVERYBODY,)
    refused = {name for name, (path, value) in KERNEL_SETTINGS.items() if setting(path) == value}
    refused |= set() if kernel_has_vsock() else {"AF_VSOCK"}
    expected = {name for name, (_, control) in ROWS.items() if control in who} - refused
    assert through >= expected, {name: outcomes[name] for name in expected - through}


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


async def test_a_link_shows_the_sandboxs_own_files_and_without_one_the_hosts(sandbox, local_sandbox, target):
    for place in (sandbox, local_sandbox):
        await place.exec(f"ln -s /etc/passwd users; ln -s {target['file']} bait; cat users bait")
    assert (await sandbox.exec("cat users")).stdout.count(b"\n") == 3
    assert (await sandbox.exec("cat bait")).exit_code == 1
    assert (await local_sandbox.exec("cat users bait")).stdout.endswith(b"bait")
