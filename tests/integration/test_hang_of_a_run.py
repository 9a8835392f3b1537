"""A `collect` that hangs, looked at from outside: what it says by itself, on a signal, and when it stops."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from atropos_agent.policy.protocol import Wire
from atropos_agent.telemetry.causes import Cause
from atropos_agent.testing import FakeServer, Fault, TokenizerCodec
from tests.tokenizers_for_tests import tokenizer_for

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))
ENVIRONMENT = """
import asyncio
from dataclasses import dataclass
from atropos_agent import AgentEnv

@dataclass(frozen=True)
class Item:
    id: str

class Plain(AgentEnv[Item]):
    async def get_next_item(self):
        return Item("item")
    def build_task(self, item):
        return "Say something."
    def score_trajectory(self, item, final_response):
        return 1.0

class SlowToClose(Plain):
    async def __aexit__(self, *exc):
        await asyncio.sleep(30)
"""
SMALL = ["--agent.system_prompt=Hi", "--env.group_size=2", "--collect.groups=1", "--sandbox.slots=2"]


@pytest.fixture
async def server(tmp_path):
    tokenizer_for("chatml").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "own.py").write_text(ENVIRONMENT)
    (tmp_path / "config.yaml").write_text("environment: own:Plain\n")
    codec = TokenizerCodec(tmp_path / "tokenizer")
    script = lambda ask: Fault.STALL if ask.session else "ok"  # noqa: E731
    async with FakeServer(
        script, codec, wire=Wire.LLAMA_CPP, stop_id=codec.token_id("<|im_end|>")
    ) as running:
        yield running


async def collecting(tmp_path, server, *arguments: str, stall_after_s: float):
    return await asyncio.create_subprocess_exec(
        COMMAND,
        "collect",
        "config.yaml",
        f"--policy.base_url={server.url}",
        f"--policy.tokenizer={tmp_path / 'tokenizer'}",
        *SMALL,
        *arguments,
        cwd=tmp_path,
        env={**os.environ, "ATROPOS_DEBUG_STALL_AFTER_S": str(stall_after_s)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def read_until(process, text: str) -> str:
    """What the process wrote to stderr until a line with `text`."""
    seen = ""
    async with asyncio.timeout(60):
        while text not in seen:
            line = await process.stderr.readline()
            assert line, f"it ended before saying {text!r}: {seen}"
            seen += line.decode()
    return seen


def recorded(tmp_path) -> list[dict]:
    """The lines of the flight recorder that are whole."""
    path = tmp_path / "runs/run/flight.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


async def stopped(process) -> str:
    process.send_signal(signal.SIGINT)
    _, rest = await asyncio.wait_for(process.communicate(), 60)
    return rest.decode()


async def test_a_stalled_run_says_why_and_keeps_it_in_its_flight_recorder(tmp_path, server):
    process = await collecting(tmp_path, server, stall_after_s=0.5)
    said = await read_until(process, str(Cause.SILENT))
    assert f"request {server.url}/completion step 1 of item#0." in said
    async with asyncio.timeout(60):  # the other may be told of a look later
        while {event["owner"] for event in recorded(tmp_path)} < {"item#0.0", "item#0.1"}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await stopped(process)
    events = recorded(tmp_path)
    assert {event["cause"] for event in events if event["event"] == "stalled"} == {"silent"}
    assert {event["owner"] for event in events} == {"item#0.0", "item#0.1"}
    assert {event["event"] for event in events} == {"stalled", "ended"}


async def test_sigusr1_shows_what_is_in_flight_and_the_stacks(tmp_path, server):
    process = await collecting(tmp_path, server, stall_after_s=600)
    async with asyncio.timeout(60):
        while sum(bool(ask.session) for ask in server.asks) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    said = await read_until(process, "sandbox auto of item#0.1")
    said += await stopped(process)
    assert "waiting for the first byte for" in said
    assert "most recent call first" in said
    (line,) = (tmp_path / "runs/run/flight.jsonl").read_text().splitlines()
    assert json.loads(line)["event"] == "dump"


async def test_a_shutdown_that_does_not_end_says_so(tmp_path, server):
    server.script = lambda ask: "done"
    process = await collecting(tmp_path, server, "--environment=own:SlowToClose", stall_after_s=0.5)
    said = await read_until(process, str(Cause.SHUTDOWN_STALLED))
    assert "shutdown collect" in said
    process.kill()
    await process.communicate()
