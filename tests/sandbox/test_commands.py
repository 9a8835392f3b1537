import pytest

from atropos_agent.sandbox import ExecStatus

pytestmark = pytest.mark.integration


async def test_exit_code_and_both_streams_come_back_apart(any_sandbox):
    result = await any_sandbox.exec("echo out; echo err >&2; exit 3")
    assert (result.status, result.exit_code, result.signal) == (ExecStatus.NONZERO, 3, None)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert not result.truncated


async def test_bytes_come_back_exactly(any_sandbox):
    result = await any_sandbox.exec(r"printf '\377\376\000\n\r'")
    assert result.stdout == b"\xff\xfe\0\n\r"


async def test_a_shell_ended_by_a_signal_has_no_exit_code(any_sandbox):
    result = await any_sandbox.exec("kill -9 $$")
    assert (result.status, result.exit_code, result.signal) == (ExecStatus.KILLED, None, 9)


async def test_stdin_is_given_or_empty(any_sandbox):
    data = bytes(range(256)) * 2000
    assert (await any_sandbox.exec("cat", stdin=data, timeout_s=5)).stdout_bytes == len(data)
    assert (await any_sandbox.exec("wc -c", stdin=data)).stdout.split() == [b"512000"]
    assert (await any_sandbox.exec("wc -c")).stdout.split() == [b"0"]
    assert (await any_sandbox.exec("true", stdin=data)).status is ExecStatus.OK


async def test_env_and_cwd_are_those_asked_for(any_sandbox):
    await any_sandbox.exec("mkdir 'a dir'")
    result = await any_sandbox.exec('pwd; printf %s "$X"', env={"X": "é $HOME"}, cwd="/workspace/a dir")
    assert result.stdout.endswith("/a dir\né $HOME".encode())


async def test_a_relative_cwd_starts_at_the_workspace_wherever_the_last_command_was(any_sandbox):
    await any_sandbox.exec("mkdir -p a/b")
    await any_sandbox.exec("true", cwd="/workspace/a")
    assert (await any_sandbox.exec("pwd", cwd="a/b")).stdout.endswith(b"/a/b\n")
    assert (await any_sandbox.exec("ls")).stdout == b"a\n"


async def test_a_directory_that_is_not_there_is_the_commands_failure(any_sandbox):
    result = await any_sandbox.exec("true", cwd="/workspace/missing")
    assert (result.status, result.exit_code) == (ExecStatus.NONZERO, 126)
    assert b"No such file" in result.stderr


async def test_scripts_longer_than_an_argument_run_whole(any_sandbox):
    lines = 20_000
    result = await any_sandbox.exec("n=0\n" + "n=$((n+1))\n" * lines + "echo $n; cat", stdin=b"and stdin")
    assert result.stdout == f"{lines}\nand stdin".encode()


async def test_a_nul_byte_is_refused(any_sandbox):
    with pytest.raises(RuntimeError, match="SandboxError: command has a NUL byte at 5"):
        await any_sandbox.exec("echo \0")


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"env": {"A=B": "x"}}, {"env": {"": "x"}}, {"cwd": "/a\0b"}]
)
async def test_what_no_shell_could_be_given_is_refused(any_sandbox, options):
    with pytest.raises(RuntimeError, match="SandboxError"):
        await any_sandbox.exec("true", **options)
    assert (await any_sandbox.exec("true")).status is ExecStatus.OK


async def test_an_environment_too_large_for_the_kernel_is_the_commands_failure(any_sandbox):
    result = await any_sandbox.exec("true", env={"X": "x" * 200_000})
    assert (result.status, result.exit_code) == (ExecStatus.NONZERO, 126)


async def test_state_lives_in_files_and_not_in_the_shell(any_sandbox):
    await any_sandbox.exec("x=1; cd /; echo kept > /tmp/atropos-kept; echo 1 > kept")
    result = await any_sandbox.exec('echo "[$x]"; ls -A "$HOME"')
    assert result.stdout.splitlines()[0] == b"[]"
    await any_sandbox.exec("rm -f /tmp/atropos-kept")


async def test_partial_output_is_kept_on_timeout(any_sandbox):
    result = await any_sandbox.exec("echo early; trap '' TERM; while :; do :; done", timeout_s=0.3)
    assert (result.status, result.exit_code, result.stdout) == (ExecStatus.TIMEOUT, None, b"early\n")
    assert 0.3 <= result.duration_s < 2


async def test_a_command_that_closes_its_streams_still_meets_its_timeout(any_sandbox):
    result = await any_sandbox.exec("exec >&- 2>&- <&-; sleep 30", timeout_s=0.3)
    assert result.status is ExecStatus.TIMEOUT


async def test_a_stopped_command_meets_its_timeout(any_sandbox):
    result = await any_sandbox.exec("kill -STOP $$; echo never", timeout_s=0.3)
    assert (result.status, result.stdout) == (ExecStatus.TIMEOUT, b"")


async def test_head_and_tail_of_long_output_are_kept(any_sandbox):
    result = await any_sandbox.exec("seq 1 100000")
    assert result.truncated
    assert result.stdout_bytes == 588_895
    assert len(result.stdout) == 64 << 10
    assert result.stdout.startswith(b"1\n2\n3\n")
    assert result.stdout.endswith(b"99999\n100000\n")


async def test_endless_output_is_stopped(any_sandbox):
    result = await any_sandbox.exec("yes", timeout_s=20)
    assert result.status is ExecStatus.OUTPUT_LIMIT
    assert 64 << 20 < result.stdout_bytes < 80 << 20
    assert len(result.stdout) == 64 << 10


CLONE = """exec /usr/bin/python3 -c '
import ctypes, os, time
number = {{"x86_64": 56, "aarch64": 220}}[os.uname().machine]
if ctypes.CDLL(None).syscall(number, {flags}, 0, 0, 0, 0) == 0:
    open("/proc/self/comm", "w").write("sleep")
    time.sleep(100)
time.sleep(0.05)
print("started")'"""
CLONE_PARENT = 0x8000
DAEMONS = {
    "whose end no signal tells": CLONE.format(flags=0),
    "child of the supervisor": CLONE.format(flags=CLONE_PARENT),
    "background": "sleep 100 &",
    "own session, deaf, holding stdout": "setsid sh -c 'trap \"\" TERM HUP; sleep 100' & sleep 0.05",
    "orphan": "( ( sleep 100 & ) & )",
    "stopped": "sleep 100 & kill -STOP $!",
}


@pytest.mark.parametrize("how", DAEMONS)
async def test_nothing_outlives_its_command(sandbox, how):
    result = await sandbox.exec(DAEMONS[how] + "\necho started", timeout_s=5)
    assert (result.status, result.stdout) == (ExecStatus.OK, b"started\n")
    visible = await sandbox.exec("cat /proc/[0-9]*/comm")
    assert b"sleep" not in visible.stdout


async def test_the_sandbox_works_as_people_expect(sandbox):
    script = """set -e
    [ "$(id -u):$(whoami)" = 1000:sandbox ]; [ "$HOME" = /workspace ]; [ "$(uname -n)" = sandbox ]
    echo x > /tmp/a; echo y > /dev/shm/b; echo z > /workspace/c; echo n > /dev/null
    head -c 8 /dev/urandom | wc -c; seq 3 | sort -r | awk '{s+=$1} END {print s}' | tee sum >&2
    mkdir d && cd d && printf 'b\\na\\n' | sort > s && tar cf ../t.tar s && cat /dev/fd/0 < s
    /usr/bin/python3 -c 'import subprocess, tempfile; print(subprocess.check_output(["echo", "sub"]))'
    """
    result = await sandbox.exec(script)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == b"8\na\nb\nb'sub\\n'\n"
