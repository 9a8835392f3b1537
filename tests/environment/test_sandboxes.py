import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atropos_agent.config import SandboxConfig
from atropos_agent.environment import NoSandbox
from atropos_agent.errors import ConfigError
from atropos_agent.sandbox import Sandbox
from atropos_agent.toolset import ToolRegistry, ToolSchema
from atropos_agent.trajectory import FailureKind, Score, ToolResult
from tests.environment.echoing import Echo, Word, echo, solve
from tests.processes import alive, descendants

IMPOSSIBLE = SandboxConfig(backend="docker", image="no.such.registry/image")
NONE = {"backend": "none", "unsafe": False, "limits": {}}


class Boxed(Echo):
    """Asks for a sandbox that no tool of it needs."""

    needs_sandbox = True


class Tool:
    """Tells whether its call has a sandbox."""

    def __init__(self, *, external):
        self.schema = ToolSchema.of("look", "Look around.", external=external)

    def is_available(self):
        return True, ""

    async def execute(self, arguments, context):
        return ToolResult(success=True, output=f"sandbox: {context.sandbox}")


class Outside(Echo):
    """Has a tool that needs no sandbox."""

    def build_tools(self):
        return ToolRegistry([Tool(external=True)])


class Mixed(Echo):
    """One of its tools needs a sandbox."""

    def build_tools(self):
        return ToolRegistry([Tool(external=True), Tool(external=False)])


class Careless(Echo):
    """Uses a sandbox that it did not ask for."""

    async def verify_and_score_trajectory(self, item, final_response, *, sandbox, **_):
        return Score(float((await sandbox.exec("true")).exit_code == 0))


@pytest.mark.parametrize(
    ("env_type", "needed"), [(Echo, False), (Outside, False), (Boxed, True), (Mixed, True)]
)
def test_a_sandbox_is_needed_where_a_tool_or_the_class_says_so(env_type, needed):
    assert echo(env_type).sandboxes.needed is needed


@pytest.mark.integration
@pytest.mark.parametrize("env_type", ["echoing:Echo", "test_sandboxes:Outside", "test_sandboxes:Boxed"])
def test_an_environment_without_tools_runs_where_every_sandbox_backend_refuses(tmp_path, env_type):
    """`Boxed` is the check of the check: it is refused there."""
    root = Path.cwd()
    confined = [sys.executable, str(root / "tests/sandbox/no_namespaces.py"), "--"]
    script = [sys.executable, str(root / "tests/environment/without_sandboxes.py"), str(root)]
    done = subprocess.run(
        [*confined, *script, f"tests.environment.{env_type}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    if "Boxed" in env_type:
        assert done.stdout.startswith("refused: no sandbox is available. native: ")
    else:
        assert json.loads(done.stdout) == {"score": 0.0, "isolation": NONE, "rows": 2}


@pytest.mark.parametrize("env_type", [Echo, Outside])
async def test_nothing_is_started_and_the_record_says_so(env_type):
    before = descendants(os.getpid())
    async with echo(env_type, sandbox=IMPOSSIBLE) as env:
        rollout = await env.rollout(Word("cat"))
        assert alive(descendants(os.getpid()) - before) == set()
        assert env.isolation == NONE
        assert all(proof.holds for proof in await env.validate([Word("cat"), Word("dog")]))
    assert (rollout.score, rollout.isolation) == (1.0, NONE)


async def test_an_external_tool_runs_without_a_sandbox():
    from atropos_agent.dialects.hermes import render_call

    def look(messages, step):
        return render_call("look", {}) if step == 1 else solve(messages, step)

    async with echo(Outside, look) as env:
        rollout = await env.rollout(Word("cat"))
    assert rollout.result.steps[0].tool_results[0].output == "sandbox: None"
    assert rollout.score == 1.0


async def test_a_hook_that_uses_a_sandbox_nobody_asked_for_is_told_what_to_set():
    async with echo(Careless, retries=2) as env:
        rollout = await env.rollout(Word("cat"))
    failure = rollout.result.failure
    assert (rollout.score, rollout.attempts, failure.kind) == (None, 1, FailureKind.CONFIG)
    assert "environment 'echo' uses sandbox.exec" in failure.text
    assert "set `needs_sandbox = True`" in failure.text


@pytest.mark.parametrize(
    "use",
    [
        lambda sandbox: sandbox.exec("true"),
        lambda sandbox: sandbox.start("true"),
        lambda sandbox: sandbox.session(),
        lambda sandbox: sandbox.check("true"),
        lambda sandbox: sandbox.read_file("f"),
        lambda sandbox: sandbox.write_files({}),
        lambda sandbox: sandbox.snapshot(),
        lambda sandbox: sandbox.list_files(),
        lambda sandbox: sandbox.restore({}),
        lambda sandbox: sandbox.archive(),
        lambda sandbox: sandbox.extract(b""),
    ],
)
async def test_every_use_of_no_sandbox_is_refused(use):
    with pytest.raises(ConfigError, match=r"environment 'mine' uses sandbox\.\w+, but runs without"):
        await use(NoSandbox("mine"))


async def test_no_sandbox_is_a_sandbox_and_closes():
    sandbox = NoSandbox("mine")
    assert isinstance(sandbox, Sandbox)
    await sandbox.close()


async def test_slots_bound_the_rollouts_in_flight_without_sandboxes_too():
    present, most = 0, 0

    class Counting(Echo):
        async def setup_trajectory_workspace(self, item, *, sandbox):
            nonlocal present, most
            present += 1
            most = max(most, present)
            await asyncio.sleep(0)
            return {}

        async def verify_and_score_trajectory(self, item, final_response, **_):
            nonlocal present
            present -= 1
            return Score(0.0)

    async with echo(Counting, sandbox=SandboxConfig(slots=3)) as env:
        await env.collect_group(Word("cat"), 12)
    assert (present, most) == (0, 3)


async def test_a_sandbox_that_the_class_asks_for_reaches_its_hooks():
    class Working(Boxed):
        async def setup_trajectory_workspace(self, item, *, sandbox):
            await sandbox.write_files({"word": item.id.encode()})
            return {}

        async def verify_and_score_trajectory(self, item, final_response, *, sandbox, **_):
            return Score(float(await sandbox.read_file("word") == final_response[::-1].encode()))

    async with echo(Working) as env:
        rollout = await env.rollout(Word("cat"))
    assert rollout.score == 1.0
    assert rollout.isolation["backend"] != "none"


async def test_a_setup_that_fails_leaves_no_sandbox_behind():
    class Unready(Boxed):
        async def setup(self):
            raise FileNotFoundError("no data")

    before = descendants(os.getpid())
    with pytest.raises(FileNotFoundError):
        async with echo(Unready):
            pass
    assert alive(descendants(os.getpid()) - before) == set()
