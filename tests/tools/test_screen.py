import asyncio
from dataclasses import replace

import pytest

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus, JobReport
from atropos_agent.toolset import ToolContext, ToolRegistry
from atropos_agent.trajectory import Json, ToolCall, ToolResult
from atropos_tools.screen import Screen
from tests.fake_sandbox import FakeJob, FakeSandbox, ended, running

NO = ended(ExecStatus.NONZERO, stderr=b"no server running\n")
YES = ended()
PROGRAM = "/bin/sh"  # is there on every machine
TOOLS = ToolRegistry([Screen(tmux=PROGRAM)])


def look(text: bytes, *, cursor: bytes = b"0,0", end: bytes = b"") -> ExecResult:
    return ended(stdout=b"%b,%b\n%b\n\n\n" % (cursor, end, text))


def served(sandbox: FakeSandbox) -> ToolContext:
    """The context of a rollout that has started a program before."""
    return ToolContext(sandbox, jobs={"screen": FakeJob(running())})


async def run(results: list[ExecResult], /, **arguments: Json) -> tuple[ToolResult, FakeSandbox]:
    sandbox = FakeSandbox([*results])
    return await TOOLS.execute(ToolCall("screen", arguments), served(sandbox)), sandbox


def test_it_is_not_available_where_there_is_no_tmux():
    assert Screen(tmux=PROGRAM).is_available() == (True, "")
    available, reason = Screen(tmux="/none/tmux").is_available()
    assert not available
    assert reason.startswith("there is no /none/tmux; install tmux")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"action": "press"}, "must be one of"),
        ({"action": "start"}, "action start needs a command"),
        ({"action": "start", "command": " \n"}, "action start needs a command"),
        ({"action": "start", "command": "a\0b"}, "NUL"),
        ({"action": "start", "command": "vim", "text": "x"}, "action start takes command, wait_s, not text"),
        ({"action": "send"}, "action send needs text, keys or both"),
        ({"action": "send", "text": "", "keys": []}, "action send needs text, keys or both"),
        ({"action": "send", "keys": ["Ctrl-C"]}, "unknown key 'Ctrl-C': one character or Enter, Escape"),
        ({"action": "send", "keys": "Enter"}, "must be array, not string"),
        ({"action": "view", "keys": ["Enter"]}, "action view takes wait_s, not keys"),
        ({"action": "stop", "command": "vim"}, "action stop takes nothing else, not command"),
        ({"action": "view", "wait_s": 61}, "at most 60"),
    ],
)
async def test_arguments_that_do_not_fit_the_action_reach_no_sandbox(arguments: dict[str, Json], error: str):
    result, sandbox = await run([], **arguments)
    assert error in result.error
    assert sandbox.commands == []


@pytest.mark.parametrize("key", ["Enter", "C-c", "M-x", "S-Up", "C-M-S-F12", ";", "-", "a", "PageDown"])
async def test_keys_are_passed_on_as_they_are(key: str):
    result, sandbox = await run([look(b""), YES, look(b"new")], action="send", keys=[key], wait_s=0)
    assert result.success
    shown = {";": r"'\;'"}.get(key, key)
    assert sandbox.commands[1][0].endswith(f"send-keys -t screen -- {shown}")


@pytest.mark.parametrize("key", ["", "é", "ab", "C-", "F13", "enter", "C-cc", "Enter ", "a\n", "-l", "X-a"])
async def test_what_is_no_key_is_refused(key: str):
    result, _ = await run([], action="send", keys=[key])
    assert result.error.startswith(f"unknown key {key!r}")


async def test_text_is_typed_byte_for_byte_before_keys_are_pressed():
    text = "é'\"$(x); \\\n\t;"
    _, sandbox = await run([look(b""), YES, look(b"")], action="send", text=text, keys=["Enter"], wait_s=0)
    command = sandbox.commands[1][0]
    assert sandbox.stdins[1] == text.encode()
    assert command.index("paste-buffer") < command.index("send-keys")


@pytest.mark.parametrize("action", ["view", "stop", "send"])
async def test_without_a_program_it_says_how_to_begin(action: str):
    call = ToolCall("screen", {"action": action, **({"text": "x"} if action == "send" else {})})
    error = "nothing is on the screen; begin with action start and a command"
    assert (await TOOLS.execute(call, served(FakeSandbox([NO])))).error == error
    assert (await TOOLS.execute(call, ToolContext(FakeSandbox()))).error == error


async def test_a_program_that_runs_is_not_replaced():
    result, sandbox = await run([look(b"vim")], action="start", command="less x")
    assert result.error == "a program is on the screen; stop it before the next one is started"
    assert sandbox.jobs == []


async def start(context: ToolContext, command: str = "vim") -> ToolResult:
    call = ToolCall("screen", {"action": "start", "command": command, "wait_s": 0})
    return await TOOLS.execute(call, context)


async def test_the_server_is_a_job_and_the_program_is_started_in_it():
    sandbox = FakeSandbox([NO, YES, NO, YES, look(b"hello")])
    context = ToolContext(sandbox)
    result = await start(context, "echo 'a b';")
    assert sandbox.jobs == [f"exec {PROGRAM} -u -S /tmp/.screen -f /dev/null -D"]
    assert list(context.jobs) == ["screen"]
    assert f"""sh 'echo '"'"'a b'"'"'\\;' {PROGRAM} /tmp/.screen""" in sandbox.commands[3][0]
    assert result.output == "[cursor in row 1, column 1]\nhello"


async def test_an_ended_program_is_followed_by_another_of_the_same_server():
    sandbox = FakeSandbox([look(b"old", end=b"0"), YES, YES, look(b"new")])
    assert (await start(served(sandbox))).output.endswith("\nnew")
    assert sandbox.jobs == []


async def test_a_server_without_a_screen_is_ended_before_the_next():
    sandbox = FakeSandbox([NO, YES, NO, YES, look(b"new")])
    context = served(sandbox)
    before = context.jobs["screen"]
    assert (await start(context)).success
    assert isinstance(before, FakeJob)
    assert (before.killed, len(sandbox.jobs), context.jobs["screen"] is before) == (True, 1, False)


async def test_a_server_that_does_not_start_is_told_of():
    sandbox = FakeSandbox([NO])
    sandbox.job = JobReport(ExecStatus.NONZERO, 127, b"", b"sh: 1: exec: tmux: not found\n", 0.1)
    result = await start(ToolContext(sandbox))
    assert result.error == "tmux did not start: sh: 1: exec: tmux: not found"


async def test_what_tmux_refuses_is_told_of():
    sandbox = FakeSandbox([YES, NO, ended(ExecStatus.NONZERO, stderr=b"fork failed\n")])
    assert (await start(ToolContext(sandbox))).error == "tmux: fork failed"


@pytest.mark.parametrize(
    "answer", [ended(stdout=b"nonsense"), ended(stdout=b"0,0\n"), ended(ExecStatus.OOM, signal=9)]
)
async def test_an_answer_that_is_no_screen_is_told_of(answer: ExecResult):
    result, _ = await run([answer], action="view")
    assert result.error.startswith("tmux gave no screen")


async def test_the_cursor_counts_from_one_and_empty_lines_at_the_end_are_left_out():
    result, _ = await run([look(b"", cursor=b"0,0"), look(b"\na\xff", cursor=b"4,1")], action="view")
    assert result.output == "[cursor in row 2, column 5]\n\na\ufffd"
    assert result.details == {"row": 2, "column": 5, "exit_code": None}


async def test_the_end_of_the_program_is_shown_with_its_last_screen():
    result, sandbox = await run([look(b"bye", end=b"3")] * 4, action="view", wait_s=60)
    assert (result.success, result.output) == (True, "[the program has ended with exit code 3]\nbye")
    assert (result.details["exit_code"], len(sandbox.results)) == (3, 2)


async def test_nothing_is_typed_after_the_end_of_the_program():
    result, sandbox = await run([look(b"bye", end=b"0")], action="send", text="x")
    assert result.error == "the program has ended with exit code 0; start it again or another one"
    assert len(sandbox.commands) == 1


async def test_the_screen_is_shown_once_it_rests():
    views = [look(b"before"), YES, look(b"before"), look(b"half"), *[look(b"whole")] * 20]
    result, sandbox = await run(views, action="send", text="x", wait_s=60)
    assert result.output == "[cursor in row 1, column 1]\nwhole"
    assert len(sandbox.results) > 10


async def test_a_screen_that_never_rests_is_shown_at_the_limit():
    views = [look(b"%d" % number) for number in range(100)]
    result, sandbox = await run(views, action="view", wait_s=0.5)
    assert result.success
    assert 80 < len(sandbox.results) < 99


async def test_a_rollout_that_ends_cuts_the_wait_short():
    views = [look(b"same")] * 100
    context = replace(served(FakeSandbox(views)), deadline=asyncio.get_running_loop().time() + 0.2)
    result = await Screen(tmux=PROGRAM).execute({"action": "view", "wait_s": 60}, context)
    assert result.output == "[cursor in row 1, column 1]\nsame"


async def test_a_program_that_vanishes_meanwhile_is_told_of():
    result, _ = await run([look(b"a"), look(b"a"), NO], action="view", wait_s=60)
    assert result.error.startswith("nothing is on the screen")


async def test_stop_ends_the_job():
    context = served(FakeSandbox([look(b"a")]))
    job = context.jobs["screen"]
    result = await TOOLS.execute(ToolCall("screen", {"action": "stop"}), context)
    assert isinstance(job, FakeJob)
    assert (result.output, job.killed, context.jobs) == ("Stopped", True, {})


async def test_a_sandbox_is_needed_and_a_lost_one_ends_the_rollout():
    view: dict[str, Json] = {"action": "view"}
    without = await Screen(tmux=PROGRAM).execute(view, ToolContext())
    assert without.error == "screen needs a sandbox, and this rollout has none"
    with pytest.raises(SandboxLost):
        await Screen(tmux=PROGRAM).execute(view, served(FakeSandbox(lost=True)))
