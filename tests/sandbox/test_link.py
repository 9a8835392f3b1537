"""The host against a supervisor that lies."""

import asyncio
import math
import socket
import threading
import time

import pytest

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox import ExecStatus, Isolation, SandboxSpec
from atropos_agent.sandbox.inside import frames, report
from atropos_agent.sandbox.link import Link
from atropos_agent.sandbox.slot import SlotProcess, SupervisedSandbox

# In the order of the record: status, code, stdout kept, all stdout, all stderr, kills, duration, CPU time.
GOOD = {"status": 0, "code": 0, "cut": 2, "stdout": 2, "stderr": 0, "kills": 0, "wall": 0.1, "cpu": 0.1}


def reported(output=b"hi", **changes):
    return frames.encode({}, report.RECORD.pack(*(GOOD | changes).values()), output)


class FakeSupervisor:
    """Answers every request with the same bytes; `None` means silence, b"" means hanging up."""

    def __init__(self, answer):
        self.answer = answer

    async def serve(self, end):
        reader, writer = await asyncio.open_unix_connection(sock=end)
        while await reader.read(1 << 16):
            if self.answer is None:
                continue
            writer.write(self.answer)
            if not self.answer:
                break
            await writer.drain()
        writer.close()


@pytest.fixture
async def lying():
    tasks = []
    links = []

    async def connect(answer):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        tasks.append(asyncio.create_task(FakeSupervisor(answer).serve(theirs)))
        links.append(await Link.over(ours))
        gone = SlotProcess(kill=lambda: None)
        gone.gone.set()
        return SupervisedSandbox(
            links[-1], gone, SandboxSpec(output_kept_bytes=100), Isolation("fake", unsafe=True)
        )

    yield connect
    for link in links:
        link.abandon("the test is over")
    await asyncio.gather(*tasks)


async def test_a_good_answer_is_a_result(lying):
    result = await (await lying(reported())).exec("x")
    assert (result.status, result.stdout, result.cpu_s) == (ExecStatus.OK, b"hi", 0.1)


async def test_what_was_not_measured_is_missing(lying):
    assert (await (await lying(reported(cpu=math.nan))).exec("x")).cpu_s is None


LIES = {
    "hangs up": b"",
    "no frame": b"garbage that is longer than a prefix",
    "too long": frames.PREFIX.pack(2**31, 0),
    "not JSON": frames.PREFIX.pack(3, 0) + b"{{{",
    "empty": frames.encode({}),
    "too short": frames.encode({}, bytes(report.RECORD.size - 1)),
    "a failure": frames.encode({"fatal": "trouble"}),
    "two answers": reported() * 2,
    "too much stdout": reported(bytes(101), cut=101, stdout=101),
    "too much stderr": reported(bytes(101), cut=0, stdout=0, stderr=101),
    "cut beyond the end": reported(cut=3, stdout=3),
    "cut far beyond the end": reported(cut=2**64 - 1, stdout=2**64 - 1),
    "less stdout than is there": reported(stdout=1),
    "less stderr than is there": reported(cut=0),
    "unknown status": reported(status=len(report.STATUSES)),
    "still running": reported(status=report.STATUSES.index("running")),
    "endless": reported(wall=math.inf),
    "no duration": reported(wall=math.nan),
    "before it began": reported(wall=-0.1),
    "endless CPU time": reported(cpu=math.inf),
    "CPU time given back": reported(cpu=-0.1),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_loses_the_sandbox_and_nothing_else(lying, lie):
    sandbox = await lying(LIES[lie])
    assert (await sandbox.exec("x")).status is ExecStatus.SANDBOX_LOST
    assert not sandbox.alive
    assert (await sandbox.exec("y")).status is ExecStatus.SANDBOX_LOST
    with pytest.raises(SandboxLost):
        await sandbox.read_file("f")


@pytest.mark.parametrize("answer", [{"errno": "2"}, {"errno": 2}, {"entries": 1}, {"entries": [["a"]]}, {}])
async def test_a_lie_about_files_loses_the_sandbox(lying, answer):
    sandbox = await lying(frames.encode(answer))
    with pytest.raises(SandboxLost):
        await sandbox.snapshot()
    assert not sandbox.alive


async def test_silence_ends_at_the_hosts_own_deadline(lying):
    sandbox = await lying(None)
    result = await sandbox.exec("x", timeout_s=0.01)
    assert (result.status, sandbox.alive) == (ExecStatus.SANDBOX_LOST, False)


async def test_the_deadline_of_a_request_is_its_own():
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    loop = asyncio.get_running_loop()

    async def asked(timeout_s, answer_after_s=None):
        if answer_after_s is not None:
            loop.call_later(answer_after_s, theirs.send, frames.encode({}))
        return await link.request({}, timeout_s=timeout_s)

    with theirs:
        await asked(0.1, 0)  # leaves an alarm behind
        await asked(5, 0.2)
        await asked(5, 0)  # and a late one
        with pytest.raises(SandboxLost, match=r"no answer within 0\.1 s"):
            await asked(0.1)


@pytest.mark.parametrize("size", [0, 130_000])
async def test_an_answer_that_came_while_the_loop_was_busy_counts(size):
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)

    def answer():
        theirs.recv(1 << 16)
        theirs.send(frames.encode({"late": False}, bytes(size)))

    thread = threading.Thread(target=answer)
    thread.start()
    request = asyncio.create_task(link.request({}, timeout_s=0.05))
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 the loop is busy past the deadline
    assert (await request).meta == {"late": False}
    thread.join()
    link.abandon("the test is over")
    theirs.close()


async def test_an_alarm_that_was_set_for_another_request_decides_nothing():
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    loop = asyncio.get_running_loop()
    with theirs:
        loop.call_soon(theirs.send, frames.encode({"n": 1}))
        await link.request({}, timeout_s=0.2)
        alarm = link._alarm.when()

        def be_busy():
            theirs.send(frames.encode({"n": 2}))
            time.sleep(0.4)

        loop.call_at(alarm - 1e-6, be_busy)  # just before it, so that both are due at once
        request = asyncio.create_task(link.request({}, timeout_s=0.3))
        assert (await request).meta == {"n": 2}
        link.abandon("the test is over")


async def test_a_cancelled_request_loses_the_sandbox(lying):
    sandbox = await lying(None)
    task = asyncio.create_task(sandbox.exec("x"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sandbox.alive


async def test_speaking_unasked_loses_the_sandbox():
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.send(reported())
    assert await asyncio.to_thread(theirs.recv, 1) == b""  # the host hung up
    with theirs, pytest.raises(SandboxLost, match="without being asked"):
        await link.request({}, timeout_s=1)


async def test_lengths_that_would_show_the_payload_twice_lose_the_sandbox(lying):
    rows = [["a", "file", 420, 3, length, "", 1] for length in (3, -3, 3)]
    sandbox = await lying(frames.encode({"entries": rows}, b"abc"))
    with pytest.raises(SandboxLost, match="not a file entry"):
        await sandbox.snapshot()
