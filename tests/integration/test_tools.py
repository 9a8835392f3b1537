"""The built-in tools in the real sandbox."""

from collections.abc import AsyncIterator

import pytest

from atropos_agent.sandbox.pool import SandboxPool
from atropos_agent.sandbox.protocol import Sandbox, SandboxSpec
from atropos_agent.toolset import ToolContext, ToolRegistry
from atropos_agent.trajectory import Json, ToolCall, ToolResult
from atropos_tools.files import EditFile, ReadFile, WriteFile
from atropos_tools.terminal import Terminal

pytestmark = pytest.mark.integration

SPEC = SandboxSpec(workspace_bytes=4 << 20, memory_bytes=256 << 20, output_limit_bytes=8 << 20)


class Bench:
    """All tools over one sandbox."""

    def __init__(self, sandbox: Sandbox, timeout_s: float = 20) -> None:
        self.context = ToolContext(sandbox=sandbox)
        self.tools = ToolRegistry([Terminal(timeout_s=timeout_s), ReadFile(), WriteFile(), EditFile()])

    async def sh(self, command: str) -> ToolResult:
        return await self.use("terminal", command=command)

    async def use(self, name: str, /, **arguments: Json) -> ToolResult:
        return await self.tools.execute(ToolCall(name, arguments), self.context)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with SandboxPool(spec=SPEC, size=1) as pool, pool.acquire() as slot:
        yield slot


@pytest.fixture
def bench(sandbox: Sandbox) -> Bench:
    return Bench(sandbox)


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
