"""Pseudo-terminals inside a sandbox: what tmux, script and python's pty stand on."""

import pytest

from tests.sandbox.conftest import NATIVE, DrivenSandbox

pytestmark = pytest.mark.integration

SPAWN = """
import os, pty
pid, leader = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", "tty; stty size >/dev/tty; exec 3>/dev/tty && echo controlling >&3"])
said = b""
try:
    while chunk := os.read(leader, 1000):
        said += chunk
except OSError:
    pass
os.waitpid(pid, 0)
print(said.decode().split())
"""

TAKE_MANY = """
import os
held = []
try:
    while len(held) < 400:
        held += os.openpty()
except OSError:
    print(len(held) // 2)
"""


async def test_script_runs_a_command_in_a_terminal_of_the_sandbox(sandbox):
    result = await sandbox.exec(
        "script -qec 'tty; test -t 0 && echo terminal' typescript </dev/null; ls /dev/pts"
    )
    assert result.stdout.split() == [b"/dev/pts/0", b"terminal", b"ptmx"], result


async def test_python_has_pseudo_terminals(sandbox):
    result = await sandbox.exec("/usr/bin/python3 -", stdin=SPAWN.encode())
    assert result.stdout == b"['/dev/pts/0', '0', '0', 'controlling']\n", result


async def test_a_terminal_serves_every_command_anew(sandbox):
    for _ in range(3):
        result = await sandbox.exec("script -qec tty /dev/null </dev/null")
        assert result.stdout.strip() == b"/dev/pts/0"


async def test_no_terminal_of_the_host_is_reached(sandbox):
    result = await sandbox.exec("exec 3<>/dev/tty")
    assert result.exit_code != 0
    assert b"/dev/tty" in result.stderr
    assert (await sandbox.exec("ls /dev/pts")).stdout == b"ptmx\n"


@pytest.mark.parametrize("kind", NATIVE)
async def test_terminals_are_limited(drivers, kind):
    """The kernel has one limit for all of them, which one sandbox must not use up."""
    sandbox = DrivenSandbox(drivers(kind))
    result = await sandbox.exec("/usr/bin/python3 -", stdin=TAKE_MANY.encode())
    assert result.stdout == b"64\n", result
    await sandbox.close()
