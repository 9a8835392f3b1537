"""Scoring in the sandbox: what an agent prepares beforehand gains it nothing, and a naive check is fooled."""

import pytest

from atropos_agent.sandbox import ExecStatus
from tests.sandbox.conftest import ISOLATED, DrivenSandbox, Driver

pytestmark = pytest.mark.integration

TEST = b"""
import subprocess, sys
answer = subprocess.run(["sh", "/workspace/solution.sh"], capture_output=True, text=True).stdout
sys.exit(0 if answer == "42\\n" else 1)
"""
FILES = {"test.py": TEST}
CHECK = "python3 test.py"
SITE = "import os; os._exit(0)"
# Each leaves a wrong solution and tries to make the check pass all the same.
TAMPERING = {
    "another python in PATH": """
        for d in bin .local/bin; do mkdir -p $d; printf '#!/bin/sh\\nexit 0\\n' > $d/python3; done
        chmod +x bin/python3 .local/bin/python3""",
    "another test file": """
        mkdir -p /tmp/check; for d in /workspace /tmp /tmp/check; do echo 'raise SystemExit(0)' > $d/test.py
        done""",
    "a daemon that waits for the test file": """
        printf 'trap "" TERM HUP; while :; do echo raise > /tmp/check/test.py; done' > /tmp/daemon
        setsid sh /tmp/daemon 2>/dev/null &""",
    "sitecustomize in the user's site": f"""
        d=$(/usr/bin/python3 -c 'import site; print(site.getusersitepackages())'); mkdir -p $d
        echo '{SITE}' | tee $d/sitecustomize.py > $d/usercustomize.py""",
    "sitecustomize and a module beside the test": f"""
        mkdir -p /tmp/check; for d in . /tmp /tmp/check; do
        for m in sitecustomize usercustomize subprocess sys; do echo '{SITE}' > $d/$m.py; done; done""",
    "start-up files of the shell": """
        for f in .profile .bashrc .bash_profile .shinit; do echo 'exit 0' > ~/$f; done""",
    "a session that is still open": "",
}
AT_THE_CHECK = {
    "rewrites the test": "echo 'raise SystemExit(0)' > /tmp/check/test.py",
    "replaces the test": "rm -f /tmp/check/test.py; echo 'raise SystemExit(0)' > /tmp/check/test.py",
    "truncates the test": "cd /tmp/check; chmod 777 test.py; : > test.py; truncate -s 0 test.py",
    "moves the test's directory": "mv /tmp/check /tmp/other; mkdir /tmp/check",
    "writes to the workspace": "echo 42 > /workspace/late",
}


async def tamper(sandbox, how):
    await sandbox.write_files({"solution.sh": b"echo 41\n"})
    if how == "a session that is still open":
        shell = await sandbox.session()
        await shell.run("(while :; do echo 'raise SystemExit(0)' > /tmp/check/test.py; done) 2>/dev/null &")
        await sandbox.start("while :; do echo 'raise SystemExit(0)' > /tmp/check/test.py; done 2>/dev/null")
    else:
        await sandbox.exec(TAMPERING[how])


async def test_a_right_solution_passes_and_a_wrong_one_fails(sandbox):
    await sandbox.write_files({"solution.sh": b"echo 42\n"})
    assert (await sandbox.check(CHECK, files=FILES)).status is ExecStatus.OK
    await sandbox.write_files({"solution.sh": b"echo 41\n"})
    assert (await sandbox.check(CHECK, files=FILES)).exit_code == 1


@pytest.mark.parametrize("how", TAMPERING)
async def test_what_was_prepared_gains_nothing(sandbox, how):
    await tamper(sandbox, how)
    result = await sandbox.check(CHECK, files=FILES)
    assert (result.status, result.exit_code) == (ExecStatus.NONZERO, 1), result


@pytest.mark.parametrize("act", AT_THE_CHECK)
async def test_what_the_solution_does_during_the_check_changes_neither_tests_nor_workspace(sandbox, act):
    await sandbox.write_files({"solution.sh": f"{AT_THE_CHECK[act]}\necho 41\n".encode()})
    script = f"{CHECK}; cmp test.py /proc/self/fd/9 9<<'E' && cat test.py\n{TEST.decode()}E\n"
    result = await sandbox.check(script, files=FILES)
    assert result.stdout == TEST, result
    assert "late" not in await sandbox.snapshot()


NAIVE = {
    "another python in PATH": "PATH=/workspace/bin:$PATH python3 /workspace/test.py",
    "another test file": "python3 /workspace/test.py",
    "sitecustomize in the user's site": "python3 /workspace/test.py",
    "sitecustomize and a module beside the test": "python3 /workspace/test.py",
    "start-up files of the shell": ". ~/.profile; python3 /workspace/test.py",
}


@pytest.mark.parametrize("how", NAIVE)
async def test_the_same_preparations_fool_a_check_that_is_a_mere_command(drivers, how):
    sandbox = DrivenSandbox(drivers("native-as-user"))
    await tamper(sandbox, how)
    if how != "another test file":
        await sandbox.write_files(FILES)
    assert (await sandbox.exec(NAIVE[how])).exit_code == 0
    await sandbox.close()


async def test_a_check_starts_from_nothing_but_the_workspace(sandbox):
    await sandbox.exec("echo x > /tmp/a; mkdir -p /dev/shm/d/e; chmod 000 /dev/shm/d; echo kept > kept")
    names = "env | cut -d= -f1 | sort | tr '\\n' ' '"
    script = f"ls -A /tmp /dev/shm; cat /workspace/kept; {names}; echo t > $TMPDIR/t; cat < /dev/null"
    result = await sandbox.check(script)
    assert result.exit_code == 0, result
    assert result.stdout.split() == [
        *(
            b"/dev/shm:",
            b"/tmp:",
            b"check",
            b"scratch",
            b"kept",
            b"HOME",
            b"LANG",
            b"LOGNAME",
            b"PATH",
            b"PWD",
        ),
        *(
            b"PYTHONDONTWRITEBYTECODE",
            b"PYTHONNOUSERSITE",
            b"PYTHONSAFEPATH",
            b"SHELL",
            b"TERM",
            b"TMPDIR",
            b"USER",
        ),
    ]


async def test_no_depth_of_directories_keeps_a_check_from_starting(sandbox):
    deep = "import os\nos.chdir('/tmp')\nfor _ in range(6000): os.mkdir('d'); os.chdir('d')"
    assert (await sandbox.exec("/usr/bin/python3 -", stdin=deep.encode())).exit_code == 0
    assert (await sandbox.check("ls /tmp")).stdout == b"check\nscratch\n"


async def test_a_check_has_limits_like_a_command(sandbox):
    result = await sandbox.check("echo early; sleep 60", timeout_s=0.3)
    assert (result.status, result.stdout) == (ExecStatus.TIMEOUT, b"early\n")
    assert (await sandbox.exec("echo on")).stdout == b"on\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b"])
async def test_files_of_a_check_have_plain_names(any_sandbox, name):
    with pytest.raises(RuntimeError, match="SandboxError: a file of a check is called"):
        await any_sandbox.check("true", files={name: b""})


async def test_local_checks_too_without_protection(local_sandbox):
    await local_sandbox.write_files({"solution.sh": b"echo 41\n"})
    script = "python3 -c 'import os; print(os.listdir())'; cat test.py"
    result = await local_sandbox.check(script, files=FILES)
    assert result.stdout == b"['test.py']\n" + TEST


UNFAVOURABLE = {
    "modes": "chmod 0 /tmp; chmod 0 /dev/shm",
    "a mode that hides a file": "touch /tmp/f; chmod 555 /tmp",
    "attributes": '/usr/bin/python3 -c \'import os; os.setxattr("/tmp", "user.a", b"x")\'; true',
    "priority": """/usr/bin/python3 -c '
import os
for act in (lambda: os.setpriority(os.PRIO_PROCESS, 1, 19), lambda: os.setpriority(os.PRIO_USER, 1000, 19),
            lambda: (os.setpgid(0, 1), os.setpriority(os.PRIO_PGRP, 0, 19)),
            lambda: os.sched_setaffinity(1, {0}),
            lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))):
    try: act()
    except OSError: pass
'""",
    "shared memory": "ipcmk -M 1000000; ipcmk -Q; ipcmk -S 1; true",
}


@pytest.mark.parametrize("how", UNFAVOURABLE)
async def test_nothing_that_was_changed_keeps_a_check_from_a_fair_run(sandbox, how):
    before = await sandbox.check(FAIR)
    await sandbox.exec(UNFAVOURABLE[how])
    after = await sandbox.check(FAIR)
    assert (after.status, after.stdout) == (before.status, before.stdout) == (ExecStatus.OK, before.stdout)


FAIR = """stat -c %a /tmp /dev/shm; /usr/bin/python3 -c '
import os
print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
print(sorted(os.sched_getaffinity(0)), os.listxattr("/tmp"))
'; cat /proc/sysvipc/*"""


async def test_the_files_of_a_check_cannot_be_read_afterwards(sandbox):
    await sandbox.check("true", files={"hidden.py": b"SECRET"})
    assert (await sandbox.exec("ls -A /tmp; cat /tmp/check/hidden.py")).stdout == b""


async def test_memory_that_was_filled_beforehand_does_not_lose_a_score(package_root):
    driver = Driver(ISOLATED[0], package_root, spec={"memory_bytes": 64 << 20})
    sandbox = DrivenSandbox(driver)
    filled = await sandbox.exec("echo 0 > /proc/self/oom_score_adj; exec head -c 250000000 /dev/zero > a")
    scored = await sandbox.check("exit 1")
    assert {filled.status, scored.status} <= {ExecStatus.OOM, ExecStatus.NONZERO, ExecStatus.SANDBOX_LOST}
    assert filled.status is ExecStatus.OOM, filled
    await sandbox.close()
    driver.close()
