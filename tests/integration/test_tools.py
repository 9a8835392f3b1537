"""The built-in tools in the real sandbox."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from atropos_agent.sandbox.pool import SandboxPool
from atropos_agent.sandbox.protocol import Sandbox, SandboxSpec
from atropos_agent.toolset import ToolContext, ToolRegistry
from atropos_agent.trajectory import Json, ToolCall, ToolResult
from atropos_tools.files import EditFile, ReadFile, WriteFile
from atropos_tools.python import Python
from atropos_tools.screen import Screen
from atropos_tools.terminal import Terminal

pytestmark = pytest.mark.integration

SPEC = SandboxSpec(workspace_bytes=4 << 20, memory_bytes=256 << 20, output_limit_bytes=8 << 20)


class Bench:
    """All tools over one sandbox."""

    def __init__(self, sandbox: Sandbox, timeout_s: float = 20, *, session: bool = False) -> None:
        self.context = ToolContext(sandbox=sandbox)
        files = ReadFile(), WriteFile(), EditFile()
        terminal = Terminal(timeout_s=timeout_s, session=session)
        self.tools = ToolRegistry([terminal, *files, Python(timeout_s=timeout_s), Screen()])

    async def sh(self, command: str) -> ToolResult:
        return await self.use("terminal", command=command)

    async def py(self, code: str) -> ToolResult:
        return await self.use("python", code=code)

    async def screen(self, action: str, **arguments: Json) -> ToolResult:
        return await self.use("screen", action=action, **arguments)

    async def screen_until(self, text: str, /, **arguments: Json) -> str:
        """What the screen shows after keys were sent, looked at until it holds `text`."""
        result = await self.screen("send", **arguments)
        for _ in range(50):
            if text in result.output:
                return result.output
            result = await self.screen("view", wait_s=0.5)
        raise AssertionError(f"{text!r} never came, but: {result}")

    async def use(self, name: str, /, **arguments: Json) -> ToolResult:
        return await self.tools.execute(ToolCall(name, arguments), self.context)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with SandboxPool(spec=SPEC, size=1) as pool, pool.acquire() as slot:
        yield slot


@pytest.fixture
def bench(sandbox: Sandbox) -> Bench:
    return Bench(sandbox)


@pytest.fixture
def shell(sandbox: Sandbox) -> Bench:
    """As `bench`, with a terminal that keeps its shell."""
    return Bench(sandbox, session=True)


@pytest.fixture(params=["native", "bubblewrap"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """As `shell`, in each kind of sandbox."""
    async with SandboxPool(request.param, spec=SPEC, size=1) as pool, pool.acquire() as slot:
        yield Bench(slot, session=True)


async def test_the_terminal_shows_streams_and_exit_code(bench: Bench):
    result = await bench.sh("pwd; echo oops >&2; exit 3")
    assert (result.success, result.error) == (False, "Exit code: 3")
    assert result.output == "/workspace\n[stderr]\noops"
    assert result.details["exit_code"] == 3


async def test_files_stay_and_shell_state_does_not(bench: Bench):
    await bench.sh("x=1; cd /tmp; echo $x > /workspace/kept")
    assert (await bench.sh('cat kept; pwd; echo "[$x]"')).output == "1\n/workspace\n[]"


async def test_a_hanging_command_times_out_with_what_it_wrote(sandbox: Sandbox):
    result = await Bench(sandbox, timeout_s=0.5).sh("echo begun; sleep 60")
    assert (result.output, result.error) == ("begun", "Command timed out after 0.5s")


async def test_much_output_is_head_and_tail(bench: Bench):
    result = await bench.sh("seq 1 400000")
    assert result.success
    assert result.output.startswith("1\n2\n")
    assert result.output.endswith("\n400000")
    assert len(result.output) < 12_100
    assert "bytes cut" in result.output


async def test_endless_output_is_stopped(bench: Bench):
    result = await bench.sh("yes")
    assert result.error.startswith("Too much output")
    assert result.output.startswith("y\ny\n")


async def test_binary_output_is_harmless_text(bench: Bench):
    result = await bench.sh("head -c 3000 /dev/urandom; printf 'a\\000b'")
    assert result.success
    assert result.output.endswith("a\ufffdb")
    assert not set(result.output) & {chr(code) for code in range(32) if chr(code) not in "\t\n\r"}


async def test_a_full_workspace_is_an_observation(bench: Bench):
    assert not (await bench.sh("head -c 20000000 /dev/zero > big")).success
    written = await bench.use("write_file", path="a", content="x" * 90_000)
    assert written.error == "cannot write 'a': No space left on device"


async def test_a_file_is_written_read_and_edited(bench: Bench):
    assert (await bench.use("write_file", path="deep/er/run.sh", content="#!/bin/sh\necho é one\n")).success
    await bench.sh("chmod +x deep/er/run.sh")
    edited = await bench.use("edit_file", path="/workspace/deep/er/run.sh", old_text="one", new_text="two")
    assert edited.output == "Replaced 1 occurrence in /workspace/deep/er/run.sh"
    assert (await bench.use("read_file", path="deep/er/run.sh")).output == "#!/bin/sh\necho é two\n"
    assert (await bench.sh("deep/er/run.sh")).output == "é two"


async def test_names_that_a_shell_would_read_are_just_names(bench: Bench):
    name = "-rf $(touch gotcha) 'q\" \n*"
    assert (await bench.use("write_file", path=name, content="1")).success
    assert (await bench.use("edit_file", path=name, old_text="1", new_text="2")).success
    assert (await bench.use("read_file", path=name)).output == "2"
    assert (await bench.sh("ls -1 | wc -l; test -e gotcha || echo safe")).output.endswith("safe")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("none", "no such file"),
        (".", "it is a directory"),
        ("big", "at most 100000 bytes are possible"),
        ("../etc/passwd", "only /workspace can be reached"),
        ("link", "only /workspace can be reached"),
        ("fifo", "not a regular file"),
        ("a\0b", "cannot read 'a\\x00b'"),
        ("x" * 5000, "cannot read"),
    ],
)
async def test_what_cannot_be_read_is_an_observation(bench: Bench, path: str, error: str):
    await bench.sh("ln -s /etc/passwd link; mkfifo fifo; head -c 100001 /dev/zero > big")
    result = await bench.use("read_file", path=path)
    assert not result.success
    assert error in result.error


@pytest.mark.parametrize("path", ["/etc/a", "../a", "link/a", "dir", "file/a", "a\0b"])
async def test_what_cannot_be_written_is_an_observation(bench: Bench, path: str):
    await bench.sh("ln -s /tmp link; mkdir dir; touch file")
    result = await bench.use("write_file", path=path, content="x")
    assert not result.success
    assert result.error.startswith(f"cannot write {path!r}: ")


async def test_a_full_disk_has_an_error_of_its_own(bench: Bench):
    result = await bench.sh("cat /dev/zero > big")
    assert result.error.startswith("Disk full: no room is left in /workspace or /tmp. Exit code: ")
    assert result.details["status"] == "disk_full"


async def test_directory_variables_and_background_jobs_of_a_session_stay(desk: Bench):
    assert (await desk.sh("mkdir d; cd d; x='a b'; sleep 600 & echo begun")).output == "begun"
    result = await desk.sh('pwd; echo "$x"; kill -0 %1 && echo lives; exec 3>/none')
    assert (result.output.splitlines()[:3], result.error[:9]) == (
        ["/workspace/d", "a b", "lives"],
        "Exit code",
    )
    assert (await desk.sh("cd /tmp; pwd; false")).error == "Exit code: 1"


async def test_a_shell_that_exits_is_replaced_and_the_model_is_told(shell: Bench):
    await shell.sh("x=1; cd /tmp")
    gone = await shell.sh("echo bye; exit 4")
    assert gone.output == "bye\n[The session has ended; the next command starts a new one]"
    assert (gone.error, gone.details["session_alive"]) == ("Exit code: 4", False)
    new = await shell.sh('pwd; echo "[$x]"')
    assert (new.output, new.details["session_alive"]) == ("/workspace\n[]", True)


async def test_a_shell_that_no_interrupt_ends_at_its_timeout_is_replaced(sandbox: Sandbox):
    shell = Bench(sandbox, timeout_s=0.5, session=True)
    await shell.sh("x=1")
    result = await shell.sh("echo begun; trap '' INT; while :; do :; done")
    assert result.error == "Command timed out after 0.5s"
    assert result.output == "begun\n[The session has ended; the next command starts a new one]"
    assert (await shell.sh('echo "[$x]"')).output == "[]"


async def test_one_tool_serves_many_rollouts_at_once():
    terminal = ToolRegistry([Terminal(session=True)])

    async def rollout(pool: SandboxPool, name: str) -> str:
        async with pool.acquire() as sandbox:
            context = ToolContext(sandbox)
            for command in (f"x={name}", "mkdir $x; cd $x", 'echo "$x $PWD"'):
                result = await terminal.execute(ToolCall("terminal", {"command": command}), context)
        return result.output

    names = [f"r{number}" for number in range(8)]
    async with SandboxPool(spec=SPEC, size=3) as pool:
        outputs = await asyncio.gather(*(rollout(pool, name) for name in names))
    assert outputs == [f"{name} /workspace/{name}" for name in names]


async def test_python_keeps_names_shows_values_and_tracebacks(desk: Bench):
    assert (await desk.py("import math\nx = [1]\nprint('out')\nmath.floor(2.5)")).output == "out\n2"
    failed = await desk.py("x.append(2)\nprint(x)\n1 / 0")
    assert (failed.success, failed.error) == (False, "The code raised an exception")
    assert failed.output.startswith("[1, 2]\n[stderr]\nTraceback")
    assert failed.output.endswith("ZeroDivisionError: division by zero")
    assert (await desk.py("x")).output == "[1, 2]"


async def test_python_survives_its_timeout_and_is_replaced_after_its_exit(sandbox: Sandbox):
    python = Bench(sandbox, timeout_s=1)
    await python.py("x = 1")
    result = await python.py("print('begun', flush=True)\nwhile True: pass")
    assert (result.success, result.error) == (False, "Code timed out after 1s")
    assert result.output.startswith("begun\n[stderr]\n")
    assert (await python.py("x")).output == "1"
    result = await python.py("import sys; sys.exit(3)")
    assert (result.error, result.output[:22]) == ("Exit code: 3", "[The session has ended")
    assert "NameError" in (await python.py("x")).output


async def test_much_output_of_python_is_head_and_tail(bench: Bench):
    result = await bench.py("for i in range(100000): print(i)")
    assert result.success
    assert result.output.startswith("0\n1\n")
    assert result.output.endswith("\n99999")
    assert len(result.output) < 12_100


async def test_a_file_is_written_with_vi(desk: Bench):
    await desk.screen("start", command="vi -u NONE -i NONE 'a file'")
    await desk.screen_until("one; é", text="ione; é\n\ttwo;")
    await desk.screen("send", keys=["Escape"])
    await desk.screen_until("ended with exit code 0", text=":wq", keys=["Enter"])
    assert (await desk.use("read_file", path="a file")).output == "one; é\n\ttwo;\n"


async def test_an_interactive_python_is_interrupted_and_ended(desk: Bench):
    await desk.screen("start", command="python3 -i -q")
    assert ">>>" in await desk.screen_until("42", text="print(6 * 7)\n")
    await desk.screen_until("begun", text="while not print('beg' + 'un'): import time; time.sleep(600)\n\n")
    await desk.screen_until("KeyboardInterrupt", keys=["C-c"])
    again = await desk.screen("start", command="cat")
    assert again.error == "a program is on the screen; stop it before the next one is started"
    await desk.screen_until("ended with exit code 7", text="exit(7)", keys=["Enter"])
    assert (await desk.screen("start", command="echo $((6 * 8)); read x")).output.endswith("\n48")


async def test_a_pager_goes_where_the_keys_say(desk: Bench):
    await desk.screen("start", command="seq 1000 | less", wait_s=20)
    assert "\n23\n" in await desk.screen_until("\n1\n", keys=["g"])
    assert "\n977\n" not in await desk.screen_until("\n46\n", keys=["PageDown"])
    await desk.screen_until("\n500\n", text="/^500$\n")


async def test_stop_leaves_nothing_of_what_the_screen_started(desk: Bench):
    await desk.screen("start", command="setsid sleep 611 & trap '' HUP TERM; cat")
    assert (await desk.screen("stop")).output == "Stopped"
    names = (await desk.use("terminal", command="cat /proc/[0-9]*/comm")).output.split()
    assert {"tmux", "sleep"}.isdisjoint(names)
    assert (await desk.screen("view")).error.startswith("nothing is on the screen")
    assert (await desk.screen("start", command="echo again; cat")).output.endswith("\nagain")


async def test_a_check_ends_what_is_on_the_screen(desk: Bench):
    await desk.screen("start", command="cat")
    assert desk.context.sandbox is not None
    assert (await desk.context.sandbox.check("true")).exit_code == 0
    assert (await desk.screen("send", text="x")).error.startswith("nothing is on the screen")


async def test_a_command_that_is_not_there_is_shown_with_its_exit_code(desk: Bench):
    result = await desk.screen("start", command="no-such-program", wait_s=20)
    assert result.output.startswith("[the program has ended with exit code 127]\n")
    assert result.output.endswith("not found")
