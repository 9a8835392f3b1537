"""The hang drill: each fault is started for real, and the message that comes names it and the request."""

import asyncio
import contextlib
import socket

import numpy as np
import pytest

from atropos_agent import AtroposAgent, SandboxPool, ToolRegistry, ToolResult, ToolSchema
from atropos_agent.config import DebugSettings
from atropos_agent.errors import ServerUnreachable
from atropos_agent.policy import HttpPolicy
from atropos_agent.policy.protocol import Prompt, RequestInfo, Wire
from atropos_agent.telemetry import Entry, Kind, watching
from atropos_agent.telemetry.causes import Cause
from atropos_agent.testing import FakePolicy, FakeServer, Fault
from atropos_agent.trajectory import SamplingParams

pytestmark = pytest.mark.integration

LIMIT_S = 0.4
STEP = RequestInfo("count_lines/1/7#0.3", 4)
WHO = "step 4 of count_lines/1/7#0.3"
QUIET = DebugSettings(stall_after_s=None)


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "atropos_agent.stalled"]


async def messages(caplog, count=1) -> list[str]:
    async with asyncio.timeout(20 * LIMIT_S):
        while len(told(caplog)) < count:  # noqa: ASYNC110 - a thread logs
            await asyncio.sleep(0.02)
    return told(caplog)


@contextlib.asynccontextmanager
async def in_the_background(awaitable):
    task = asyncio.ensure_future(awaitable)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ask(policy: HttpPolicy, request: RequestInfo = STEP):
    prompt = Prompt([{"role": "user", "content": "hi"}])
    prompt.extend(np.array([104, 105], np.int32), "hi")
    return policy.complete(prompt, SamplingParams(max_tokens=8), request=request)


def stalls(fault: Fault):
    """Probing is answered; a rollout meets the fault."""
    return lambda ask: fault if ask.session else "ok"


@contextlib.contextmanager
def full_backlog(port: int = 0):
    """A port that listens and never accepts, its queue filled up: a connection is not even refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield f"http://127.0.0.1:{address[1]}"


async def test_a_server_that_does_not_accept(caplog):
    """It answered the probe before it went deaf, so it is the request that is named."""
    async with FakeServer(lambda ask: "ok") as server:
        url, policy = server.url, HttpPolicy(server.url, connect_timeout_s=0.3, debug=QUIET)
        await policy.probe()
        await policy.aclose()
    with full_backlog(int(url.rpartition(":")[2])), watching(LIMIT_S):
        async with in_the_background(ask(policy)):
            (text,) = await messages(caplog)
    await policy.aclose()
    assert text.startswith(f"{Cause.NOT_ACCEPTING}: request {url}/completion {WHO}: no connection for ")


async def test_a_server_that_never_accepted_ends_in_an_error_that_says_so(caplog):
    with full_backlog() as url, watching(LIMIT_S):
        async with HttpPolicy(url, connect_timeout_s=1.0, debug=QUIET) as policy:
            with pytest.raises(ServerUnreachable, match=r"cannot reach .*: no connection within 1 s"):
                await ask(policy)
    assert all(text.startswith(f"{Cause.NOT_ACCEPTING}: request {url}") for text in told(caplog))
    assert told(caplog)


async def test_a_server_that_accepts_and_sends_nothing(caplog):
    async with FakeServer(stalls(Fault.STALL)) as server, HttpPolicy(server.url, debug=QUIET) as policy:
        with watching(LIMIT_S):
            async with in_the_background(ask(policy)):
                (text,) = await messages(caplog)
        assert text.startswith(f"{Cause.SILENT}: request {server.url}/completion {WHO}: ")


async def test_a_server_that_stops_in_mid_stream(caplog):
    script = stalls(Fault.STALL_MID_BODY)
    async with FakeServer(script) as server, HttpPolicy(server.url, debug=QUIET) as policy:
        with watching(LIMIT_S):
            async with in_the_background(ask(policy)):
                (text,) = await messages(caplog)
        assert text.startswith(f"{Cause.MID_STREAM}: request {server.url}/completion {WHO}: ")
        assert " bytes came, then none for " in text


async def test_an_exhausted_pool(caplog):
    async with (
        FakeServer(stalls(Fault.STALL)) as server,
        HttpPolicy(server.url, max_concurrency=2, debug=QUIET) as policy,
    ):
        await policy.probe()
        holders = [RequestInfo(f"holder#{n}", 1) for n in range(2)]
        async with (
            in_the_background(ask(policy, holders[0])),
            in_the_background(ask(policy, holders[1])),
        ):
            await asyncio.sleep(0.05)
            with watching(LIMIT_S):
                async with in_the_background(ask(policy)):
                    texts = await messages(caplog, 2)
        ours = [text for text in texts if WHO in text]
        assert len(ours) == 1
        assert ours[0].startswith(f"{Cause.POOL_EXHAUSTED}: request {server.url}/completion {WHO}: ")
    assert "2 of 2 places are taken (holder#0 step 1: waiting for the first byte for" in ours[0]


class Hanging:
    """A tool that never returns by itself."""

    schema = ToolSchema.of("dig", "Digs.", {"depth": {"type": "integer"}}, ("depth",))

    def is_available(self):
        return True, ""

    async def execute(self, arguments, context):
        await asyncio.sleep(3600)
        return ToolResult(success=True)


async def test_a_tool_that_hangs(caplog):
    call = '<tool_call>{"name": "dig", "arguments": {"depth": 7}}</tool_call>'
    agent = AtroposAgent(FakePolicy([call, "done"], wire=Wire.CHAT), ToolRegistry([Hanging()]))
    with watching(LIMIT_S):
        async with in_the_background(agent.run("dig", rollout_id="count_lines/1/7#0.3")):
            (text,) = await messages(caplog)
    assert text.startswith(f"{Cause.TOOL_HANGS}: tool call dig step 1 of count_lines/1/7#0.3: ")
    assert "{'depth': 7}" in text


async def test_sandboxes_that_are_all_in_use(caplog):
    async with SandboxPool("local", size=1) as pool, pool.acquire("first#0.0") as sandbox:

        async def second():
            async with pool.acquire("second#0.0"):
                pass

        with watching(LIMIT_S), Entry(Kind.TOOL, "terminal", owner="first#0.0"):
            async with in_the_background(sandbox.exec("sleep 60")), in_the_background(second()):
                (text,) = [text for text in await messages(caplog, 2) if "second#0.0" in text]
    assert text.startswith(f"{Cause.SANDBOXES_EXHAUSTED}: sandbox local of second#0.0: ")
    assert "1 of 1 places are taken (first#0.0: in use for" in text
