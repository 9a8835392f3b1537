import asyncio
import json

import pytest

from atropos_agent.dialects.hermes import result_to_xml, tool_definitions_json
from atropos_agent.errors import SandboxLost, ToolError
from atropos_agent.sandbox.protocol import ExecResult, ExecStatus
from atropos_agent.toolset import ToolContext
from atropos_agent.trajectory import ToolResult
from atropos_environments.terminal_tasks.prompts import SHORT_SYSTEM_PROMPT
from atropos_tools.terminal import Terminal
from tests.fake_sandbox import FakeSandbox, ended


async def run(result: ExecResult, max_output_bytes: int = 12_000) -> ToolResult:
    context = ToolContext(sandbox=FakeSandbox([result]))
    return await Terminal(max_output_bytes=max_output_bytes).execute({"command": "x"}, context)


def test_the_prompt_shows_only_the_command():
    assert tool_definitions_json([Terminal().schema]) == (
        '[{"name": "terminal", "description": "Run a shell command in /workspace.", '
        '"parameters": {"type": "object", "properties": {"command": {"type": "string"}}, '
        '"required": ["command"]}, "required": null}]'
    )


def test_the_quickstart_prompt_holds_this_very_schema():
    (definition,) = json.loads(tool_definitions_json([Terminal().schema]))
    assert definition.pop("required") is None
    assert json.dumps(definition) in SHORT_SYSTEM_PROMPT


@pytest.mark.parametrize(
    ("stdout", "stderr", "output"),
    [
        (b"", b"", ""),
        (b"a\nb\n\n", b"", "a\nb"),
        (b"a\n", b"warn\n", "a\n[stderr]\nwarn"),
        (b"", b"warn\n", "[stderr]\nwarn"),
        (b"  a", b"\n", "  a"),
    ],
)
async def test_stdout_and_stderr_are_told_apart(stdout: bytes, stderr: bytes, output: str):
    result = await run(ended(stdout=stdout, stderr=stderr))
    assert (result.success, result.output, result.error) == (True, output, "")


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (ended(ExecStatus.NONZERO, exit_code=3), "Exit code: 3"),
        (ended(ExecStatus.TIMEOUT, signal=9, duration_s=30.1), "Command timed out after 30s"),
        (
            ended(ExecStatus.TIMEOUT, signal=9, duration_s=2),
            "Out of CPU time: the command was stopped after 2s",
        ),
        (
            ended(ExecStatus.DISK_FULL, exit_code=1),
            "Disk full: no room is left in /workspace or /tmp. Exit code: 1",
        ),
        (ended(ExecStatus.OOM, signal=9), "Out of memory: the command was killed"),
        (
            ended(ExecStatus.OUTPUT_LIMIT, stdout_bytes=70),
            "Too much output: the command was killed after 70 bytes",
        ),
        (ended(ExecStatus.KILLED, signal=11), "Killed by signal 11 (SIGSEGV)"),
        (ended(ExecStatus.KILLED, signal=99), "Killed by signal 99"),
    ],
)
async def test_what_ended_the_command_is_the_error_and_output_is_kept(result: ExecResult, error: str):
    shown = await run(result)
    assert (shown.success, shown.error) == (False, error)


async def test_partial_output_of_a_timeout_is_shown():
    assert (await run(ended(ExecStatus.TIMEOUT, b"so far\n"))).output == "so far"


async def test_numbers_are_for_the_record_and_not_for_the_policy():
    result = await run(ended(ExecStatus.NONZERO, b"x", exit_code=2))
    assert result_to_xml(result) == (
        '<tool_response>{"success": false, "output": "x", "error": "Exit code: 2"}</tool_response>'
    )
    assert result.details == {
        "status": "nonzero",
        "exit_code": 2,
        "signal": None,
        "duration_s": 0.25,
        "cpu_s": 0.125,
        "stdout_bytes": 1,
        "stderr_bytes": 0,
        "truncated": False,
    }


async def test_bytes_that_are_no_text_are_made_harmless():
    result = await run(ended(stdout=b"a\x00\x1b[31m\x7f\xff\tb\r\n\xc3\xa9"))
    assert result.output == "a\ufffd\ufffd[31m\ufffd\ufffd\tb\r\né"


async def test_long_output_keeps_head_and_tail_and_counts_what_was_cut():
    data = b"".join(b"%05d\n" % index for index in range(2000))
    head, line, tail = (await run(ended(stdout=data), 100)).output.partition("\n[... 11900 bytes cut ...]\n")
    assert line
    assert data.startswith(head.encode())
    assert data.endswith(tail.encode() + b"\n")
    assert len(head) == 50


async def test_what_the_sandbox_dropped_is_counted_too():
    result = await run(ended(stdout=b"head-tail!", stdout_bytes=10**8))
    assert result.output == "head-\n[... 99999990 bytes cut ...]\ntail!"
    assert result.details["truncated"]


@pytest.mark.parametrize("budget", range(20, 32))
async def test_characters_are_not_split_by_a_cut(budget: int):
    output = (await run(ended(stdout="é€😀".encode() * 40), budget)).output
    assert "\ufffd" not in output
    cut = int(output.split()[2])
    assert len(output.encode()) - len(f"\n[... {cut} bytes cut ...]\n") + cut == 360


async def test_each_stream_has_half_of_the_budget_and_what_the_other_leaves():
    both = (await run(ended(stdout=b"o" * 1000, stderr=b"e" * 1000), 200)).output
    assert (both.count("o"), both.count("e") - both.count("bytes") - both.count("stderr")) == (100, 100)
    mostly_stdout = (await run(ended(stdout=b"o" * 1000, stderr=b"e" * 20), 200)).output
    assert mostly_stdout.count("o") == 180
    mostly_stderr = (await run(ended(stdout=b"o" * 20, stderr=b"." * 1000), 200)).output
    assert mostly_stderr.count(".") == 180 + 6


async def test_a_command_takes_its_limit_or_what_the_rollout_has_left():
    sandbox, now = FakeSandbox(), asyncio.get_running_loop().time()
    for deadline in (None, now + 1000, now + 2, now - 5):
        await Terminal(timeout_s=7).execute(
            {"command": "ls"}, ToolContext(sandbox=sandbox, deadline=deadline)
        )
    limits = [timeout_s for _, timeout_s in sandbox.commands]
    assert limits[:2] == [7, 7]
    assert 1 < limits[2] <= 2
    assert 0 < limits[3] < 1


@pytest.mark.parametrize("timeout_s", [0, -1, 601, float("nan")])
def test_an_impossible_limit_is_refused(timeout_s: float):
    with pytest.raises(ToolError, match="timeout_s"):
        Terminal(timeout_s=timeout_s)


async def test_without_a_sandbox_it_says_so():
    result = await Terminal().execute({"command": "ls"}, ToolContext())
    assert result.error == "terminal needs a sandbox, and this rollout has none"


async def test_a_nul_byte_in_the_command_is_an_observation():
    sandbox = FakeSandbox()
    result = await Terminal().execute({"command": "a\0b"}, ToolContext(sandbox=sandbox))
    assert "NUL" in result.error
    assert sandbox.commands == []


async def test_a_lost_sandbox_ends_the_rollout():
    with pytest.raises(SandboxLost):
        await run(ended(ExecStatus.SANDBOX_LOST))
