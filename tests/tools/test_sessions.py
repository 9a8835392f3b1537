from dataclasses import replace

import pytest

from atropos_agent.errors import SandboxLost, ToolError
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus, SessionKind
from atropos_agent.toolset import ToolContext, ToolRegistry
from atropos_agent.trajectory import ToolCall, ToolResult
from atropos_tools.python import Python
from atropos_tools.terminal import Terminal
from tests.fake_sandbox import FakeSandbox, ended

TOOLS = {"command": Terminal(session=True), "code": Python()}
ARGUMENTS = pytest.mark.parametrize("argument", TOOLS)


async def run(context: ToolContext, argument: str, text: str = "x") -> ToolResult:
    return await TOOLS[argument].execute({argument: text}, context)


async def observe(argument: str, result: ExecResult, *, alive: bool = True) -> ToolResult:
    return await run(ToolContext(FakeSandbox(endings=[(result, alive)])), argument)


def test_the_schemas_say_what_stays():
    assert "variables and background jobs stay" in TOOLS["command"].schema.description
    assert "keeps its names" in TOOLS["code"].schema.description
    assert "stay" not in Terminal().schema.description


async def test_without_session_each_command_has_a_shell_of_its_own():
    sandbox = FakeSandbox()
    result = await Terminal().execute({"command": "x"}, ToolContext(sandbox))
    assert (len(sandbox.commands), sandbox.sessions) == (1, [])
    assert "session_alive" not in result.details


async def test_the_calls_of_one_rollout_share_a_session_of_each_kind():
    sandbox = FakeSandbox()
    context = ToolContext(sandbox)
    for argument in ("command", "code", "command", "code"):
        await run(context, argument, f"a {argument}")
    assert [(kind, session.texts) for kind, session in sandbox.sessions] == [
        (SessionKind.SHELL, ["a command"] * 2),
        (SessionKind.PYTHON, ["a code"] * 2),
    ]
    assert sandbox.commands == []


async def test_a_deadline_does_not_part_a_rollout_from_its_session():
    sandbox = FakeSandbox()
    registry, context = ToolRegistry([TOOLS["code"]]), ToolContext(sandbox)
    for deadline in (None, 1e9, 2e9):
        call = ToolCall("python", {"code": "x"})
        assert (await registry.execute(call, replace(context, deadline=deadline))).success
    assert len(sandbox.sessions) == 1


async def test_rollouts_do_not_share_a_session_even_in_one_sandbox():
    sandbox = FakeSandbox()
    for context in (ToolContext(sandbox), ToolContext(sandbox)):
        await run(context, "command")
    assert len(sandbox.sessions) == 2


@ARGUMENTS
async def test_a_session_that_ended_is_told_of_closed_and_replaced(argument: str):
    last = ended(ExecStatus.NONZERO, b"bye\n", exit_code=4)
    sandbox = FakeSandbox(endings=[(last, False)])
    context = ToolContext(sandbox)
    first, second = [await run(context, argument) for _ in range(2)]
    assert first.output == f"bye\n[The session has ended; the next {argument} starts a new one]"
    assert (first.error, first.details["session_alive"]) == ("Exit code: 4", False)
    assert (second.output, second.details["session_alive"]) == ("", True)
    assert [(session.closed, len(session.texts)) for _, session in sandbox.sessions] == [
        (True, 1),
        (False, 1),
    ]


@ARGUMENTS
async def test_a_silent_end_is_told_of_too(argument: str):
    result = await observe(argument, ended(), alive=False)
    assert result.success
    assert result.output == f"[The session has ended; the next {argument} starts a new one]"


async def test_an_exception_is_a_failure_with_its_traceback():
    result = await observe("code", ended(ExecStatus.NONZERO, b"1\n", b"Traceback\nE: x\n"))
    assert (result.success, result.error) == (False, "The code raised an exception")
    assert result.output == "1\n[stderr]\nTraceback\nE: x"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (ExecStatus.TIMEOUT, "Code timed out after 30s"),
        (ExecStatus.OOM, "Out of memory: the code was killed"),
        (
            ExecStatus.DISK_FULL,
            "Disk full: no room is left in /workspace or /tmp. The code raised an exception",
        ),
    ],
)
async def test_what_stopped_the_code_is_the_error(status: ExecStatus, error: str):
    assert (await observe("code", ended(status, duration_s=30.2))).error == error


@ARGUMENTS
async def test_output_is_head_and_tail_and_the_note_is_not_cut(argument: str):
    result = await observe(argument, ended(stdout=b"o" * 50_000), alive=False)
    assert 12_000 < len(result.output) < 12_200
    assert "bytes cut" in result.output
    assert result.output.endswith("starts a new one]")


@ARGUMENTS
async def test_a_lost_sandbox_ends_the_rollout(argument: str):
    with pytest.raises(SandboxLost):
        await observe(argument, ended(ExecStatus.SANDBOX_LOST), alive=False)


@ARGUMENTS
async def test_what_cannot_be_run_opens_no_session(argument: str):
    sandbox = FakeSandbox()
    assert "needs a sandbox" in (await run(ToolContext(), argument)).error
    assert "NUL" in (await run(ToolContext(sandbox), argument, "a\0b")).error
    assert sandbox.sessions == []


def test_an_impossible_limit_is_refused():
    with pytest.raises(ToolError, match="timeout_s"):
        Python(timeout_s=0)
