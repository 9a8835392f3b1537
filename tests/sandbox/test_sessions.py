import pytest

from atropos_agent.sandbox import ExecStatus
from tests.sandbox.conftest import ISOLATED, DrivenSandbox, Driver

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def small_drivers(package_root):
    driver = Driver(ISOLATED[0], package_root, spec={"workspace_bytes": 8 << 20})
    yield lambda kind: driver
    driver.close()


async def test_directory_variables_functions_and_background_jobs_survive(sandbox):
    shell = await sandbox.session()
    await shell.run("mkdir d; cd d; export A='x y'; b=2; f() { echo f-$1; }; sleep 600 & p=$!")
    result = await shell.run('pwd; echo "$A $b"; f 3; kill -0 $p && echo lives')
    assert result.stdout == b"/workspace/d\nx y 2\nf-3\nlives\n"
    assert (result.status, shell.alive) == (ExecStatus.OK, True)


async def test_each_text_has_its_own_exit_code_and_output(sandbox):
    shell = await sandbox.session()
    first, second, third = [
        await shell.run(text) for text in ("echo a; false", "echo b >&2; (exit 7)", "echo c")
    ]
    assert (first.status, first.exit_code, first.stdout) == (ExecStatus.NONZERO, 1, b"a\n")
    assert (second.exit_code, second.stdout, second.stderr) == (7, b"", b"b\n")
    assert (third.exit_code, third.stdout, third.stderr) == (0, b"c\n", b"")


@pytest.mark.parametrize(
    "text",
    [
        "cat <<'E'\n a\\b\n\n'\"\nE",
        "echo 'x\n\n y'",
        "x=1 # a comment",
        "",
        "\n\n",
        "for i in 1 2; do\n echo $i\ndone",
    ],
)
async def test_texts_of_many_lines_mean_what_they_mean_in_a_script(sandbox, text):
    shell = await sandbox.session()
    assert (await shell.run(text)).stdout == (await sandbox.exec(text)).stdout
    assert shell.alive


async def test_a_syntax_error_is_a_failure_and_the_session_goes_on(sandbox):
    shell = await sandbox.session()
    broken = await shell.run("if then 'x")
    assert broken.exit_code
    assert b"yntax error" in broken.stderr or b"nexpected" in broken.stderr
    assert (await shell.run("echo on")).stdout == b"on\n"


async def test_nothing_printed_or_read_can_be_taken_for_the_end_of_a_text(sandbox):
    shell = await sandbox.session()
    forging = "echo 0; echo 0 >&2; cat; echo 0 >&9; read x <&8; echo end"
    result = await shell.run(forging)
    assert result.stdout == b"0\nend\n"
    assert (await shell.run("echo next; (exit 5)")).exit_code == 5


async def test_exit_ends_the_session_with_its_code(sandbox):
    shell = await sandbox.session()
    result = await shell.run("echo bye; exit 4")
    assert (result.exit_code, result.stdout, shell.alive) == (4, b"bye\n", False)
    with pytest.raises(RuntimeError, match="SandboxError: the session has ended"):
        await shell.run("true")
    assert (await (await sandbox.session()).run("echo new")).stdout == b"new\n"


async def test_a_killed_shell_is_told_from_an_exit(sandbox):
    shell = await sandbox.session()
    result = await shell.run("kill -9 $$")
    assert (result.status, result.signal, shell.alive) == (ExecStatus.KILLED, 9, False)


async def test_a_timeout_ends_what_runs_and_not_the_shell(sandbox):
    shell = await sandbox.session()
    await shell.run("x=1; cd /tmp; sleep 600 & p=$!")
    for text in (
        "echo early; sleep 60; echo never",
        "while :; do :; done",
        "(sleep 60; echo never); echo never",
    ):
        result = await shell.run(text, timeout_s=0.4)
        assert (result.status, result.exit_code, shell.alive) == (ExecStatus.TIMEOUT, 130, True)
        assert b"never" not in result.stdout
    assert (await shell.run('echo "$x"; pwd; kill -0 $p && echo lives')).stdout == b"1\n/tmp\nlives\n"


async def test_a_failure_for_want_of_room_says_so(small_drivers):
    sandbox = DrivenSandbox(small_drivers(ISOLATED[0]))
    shell = await sandbox.session()
    result = await shell.run(
        "head -c 3500000 /dev/zero > a && head -c 3500000 /dev/zero > b && head -c 3500000 /dev/zero > c"
    )
    assert result.status is ExecStatus.DISK_FULL
    await sandbox.close()


async def test_a_timeout_keeps_partial_output_and_ends_what_hangs(sandbox):
    shell = await sandbox.session()
    result = await shell.run("echo early; trap '' INT; while :; do :; done", timeout_s=0.3)
    assert (result.status, result.stdout, shell.alive) == (ExecStatus.TIMEOUT, b"early\n", False)
    assert len((await sandbox.exec("cd /proc; echo [0-9]*")).stdout.split()) == 2


async def test_a_command_beside_a_session_ends_only_what_it_started(sandbox):
    shell = await sandbox.session()
    await shell.run("sleep 601 & (setsid sleep 602 &) ; cd /tmp")
    await sandbox.exec("setsid sleep 603 & (setsid sh -c 'trap \"\" TERM; sleep 604' &) ; true")
    seen = (await sandbox.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout
    assert (b"sleep 601" in seen, b"sleep 602" in seen) == (True, True)
    assert (b"sleep 603" in seen, b"sleep 604" in seen) == (False, False)
    assert (await shell.run("pwd")).stdout == b"/tmp\n"


async def test_closing_a_session_ends_everything_it_started(sandbox):
    shell = await sandbox.session()
    await shell.run("setsid sleep 605 & (sleep 606 &)")
    await shell.close()
    await shell.close()
    assert b"sleep" not in (await sandbox.exec("cat /proc/[0-9]*/comm")).stdout


async def test_a_fork_bomb_beside_a_session_is_ended_whatever_it_costs(sandbox):
    shell = await sandbox.session()
    await sandbox.exec("b() { b | b & b; }; b", timeout_s=0.5)
    assert len((await sandbox.exec("cd /proc; echo [0-9]*")).stdout.split()) <= 3
    if shell.alive:
        result = await shell.run("echo still")
        assert result.stdout in (b"still\n", b"")


async def test_output_of_background_jobs_comes_with_the_next_text(sandbox):
    shell = await sandbox.session()
    await shell.run("(sleep 0.1; echo late; touch written) &")
    await sandbox.exec("until [ -e written ]; do sleep 0.02; done")
    assert (await shell.run("echo now")).stdout == b"late\nnow\n"


async def test_endless_output_ends_the_text(sandbox):
    shell = await sandbox.session()
    result = await shell.run("yes", timeout_s=20)
    assert result.status is ExecStatus.OUTPUT_LIMIT
    assert len(result.stdout) == 64 << 10


async def test_a_session_starts_where_and_with_what_was_asked(sandbox):
    await sandbox.exec("mkdir 'a dir'")
    shell = await sandbox.session(cwd="/workspace/a dir", env={"X": "é"})
    assert (
        await shell.run('pwd; echo "$X"; echo $HOME')
    ).stdout == "/workspace/a dir\né\n/workspace\n".encode()
    nowhere = await sandbox.session(cwd="/none")
    result = await nowhere.run("true")
    assert (result.exit_code, nowhere.alive) == (126, False)
    assert b"No such file" in result.stderr


async def test_python_keeps_names_and_shows_the_last_value(sandbox):
    python = await sandbox.session("python")
    await python.run("import math\nx = [1, 2]\ndef f(a):\n    return a * 2")
    result = await python.run("print('out')\nf(math.floor(2.5))")
    assert (result.stdout, result.exit_code) == (b"out\n4\n", 0)
    assert (await python.run("x.append(_); x")).stdout == b"[1, 2, 4]\n"
    assert (await python.run("x = 1;")).stdout == b""


async def test_a_python_error_shows_only_the_texts_own_lines(sandbox):
    python = await sandbox.session("python")
    await python.run("def f():\n    return 1 / 0")
    result = await python.run("y = 1\nf()")
    assert result.exit_code == 1
    assert b"ZeroDivisionError" in result.stderr
    assert b"return 1 / 0" in result.stderr
    assert b"serve" not in result.stderr
    assert (await python.run("print(y)")).stdout == b"1\n"
    assert b"SyntaxError" in (await python.run("def")).stderr


async def test_python_survives_its_timeout_with_its_state(sandbox):
    python = await sandbox.session("python")
    await python.run("x = 41")
    result = await python.run("print('a', flush=True)\nwhile True: pass", timeout_s=0.5)
    assert (result.status, result.exit_code, python.alive) == (ExecStatus.TIMEOUT, 130, True)
    assert b"KeyboardInterrupt" in result.stderr
    assert (await python.run("x + 1")).stdout == b"42\n"


async def test_python_reads_no_texts_from_its_standard_input(sandbox):
    python = await sandbox.session("python")
    result = await python.run(
        "import subprocess, sys\nprint(repr(sys.stdin.read()), subprocess.run('cat').returncode)"
    )
    assert result.stdout == b"'' 0\n"


async def test_exit_in_python_ends_the_session(sandbox):
    python = await sandbox.session("python")
    result = await python.run("print('bye')\nexit(3)")
    assert (result.exit_code, result.stdout, python.alive) == (3, b"bye\n", False)


async def test_two_sessions_and_a_command_know_nothing_of_each_other(sandbox):
    shell, python = await sandbox.session(), await sandbox.session("python")
    await shell.run("x=shell")
    await python.run("x = 'python'")
    assert (await sandbox.exec('echo "[$x]"')).stdout == b"[]\n"
    assert ((await shell.run("echo $x")).stdout, (await python.run("print(x)")).stdout) == (
        b"shell\n",
        b"python\n",
    )


async def test_local_has_no_sessions_and_says_so(local_sandbox):
    with pytest.raises(RuntimeError, match="SandboxError: the local backend has no sessions"):
        await local_sandbox.session()


async def test_a_status_forged_through_proc_is_not_that_of_the_next_text(sandbox):
    shell = await sandbox.session()
    forged = await shell.run("echo '1 7' > /proc/$$/fd/11; sleep 0.5; (exit 3)")
    assert forged.exit_code == 7  # it has fooled nobody but itself
    second = await shell.run("echo second; (exit 4)")
    assert (second.exit_code, second.stdout) == (4, b"second\n")


@pytest.mark.parametrize("timeout_s", [0, -1, "nan", "inf"])
async def test_a_timeout_that_is_no_time_is_refused(sandbox, timeout_s):
    shell = await sandbox.session()
    with pytest.raises(RuntimeError, match="SandboxError: timeout_s is"):
        await shell.run("true", timeout_s=float(timeout_s))
    assert shell.alive
