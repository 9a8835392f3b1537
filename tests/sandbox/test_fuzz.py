"""Both ends of the wire against an other end that sends anything at all."""

import asyncio
import json
import math
import random
import socket

import pytest

from atropos_agent.errors import SandboxError
from atropos_agent.sandbox import ExecResult, ExecStatus, FileEntry, Isolation, SandboxSpec
from atropos_agent.sandbox.inside import frames, report
from atropos_agent.sandbox.inside.files import Workspace
from atropos_agent.sandbox.link import Link
from atropos_agent.sandbox.native import NativeLauncher
from atropos_agent.sandbox.slot import SlotProcess, SupervisedSandbox

pytestmark = pytest.mark.integration

READER_CASES, HOST_CASES, WORKSPACE_CASES, SLOT_CASES, BROKEN_SLOTS = 50_000, 40_000, 8_000, 3_000, 400
SILENT_HOSTS = 64

ANSWERS = [
    {},
    {"alive": True},
    {"entries": [["a", "file", 420, 3, 3, "", 1]]},
    {"errno": 2, "error": "No such file or directory"},
    {"job": 1, "session": 1, "clean": True},
]
REQUESTS = [
    {"op": "read_file", "path": "a", "max_bytes": 100},
    {"op": "write_files", "files": [["a/b", 3]], "mode": 420},
    {"op": "snapshot", "max_file_bytes": 10, "max_total_bytes": 100},
    {"op": "list", "path": "."},
    {
        "op": "restore",
        "entries": [["d", "dir", 448, 0, 0, "", 1], ["d/f", "file", 420, 3, 3, "", 1]],
        "clear": True,
    },
    {"op": "restore", "entries": [["l", "symlink", 511, 4, 0, "/etc", 1], ["l/f", "file", 420, 3, 3, "", 1]]},
]
ODD = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    2**63,
    2**70,
    -(2**63),
    1e308,
    0.5,
    "",
    "a",
    "../..",
    "/etc/passwd",
    "\0",
    "\udcff",
    [],
    {},
]
ODD += [[[]], ["a"], [["a"]], [["a", "b"]], [["a", -1]], [["a", 2**40]], {"a": 1}, "x" * 5000, "a/" * 2000]


def odd_meta(random, templates):
    meta = dict(random.choice(templates))
    for key in list(meta):
        if random.random() < 0.3:
            meta[key] = random.choice(ODD)
        elif random.random() < 0.05:
            del meta[key]
    if random.random() < 0.1:
        meta[random.choice(("x", "op", "status", "errno", "fatal"))] = random.choice(ODD)
    return meta


def odd_payload(random):
    """Anything, or a report of anything."""
    output = random.randbytes(random.choice((0, 1, 2, 3, 10, 200)))
    if random.random() < 0.5:
        return output
    status, code = random.randrange(8), random.choice((0, 1, -9, 2**31 - 1, -(2**31)))
    sizes = random.choices((0, 1, 2, len(output), 100, 2**31, 2**64 - 1), k=3)
    kills = random.choice((0, 1, -1, 2**63 - 1))
    seconds = random.choices((0.0, 0.1, 0.1, -1.0, 1e308, math.nan, math.inf), k=2)
    return report.RECORD.pack(status, code, *sizes, kills, *seconds) + output


def odd_frame(random, templates):
    """Bytes that are a frame, nearly one, or nothing of the kind."""
    payload = odd_payload(random)
    whole = frames.encode(odd_meta(random, templates), payload)
    match random.randrange(8):
        case 0:
            return random.randbytes(random.randrange(1, 200))
        case 1:
            return whole[: random.randrange(1, len(whole) + 1)]
        case 2:
            changed = bytearray(whole)
            for _ in range(random.randrange(1, 5)):
                changed[random.randrange(len(changed))] = random.randrange(256)
            return bytes(changed)
        case 3:
            sizes = (
                random.choice((0, 1, 2**20, frames.MAX_META, 2**31, 2**32 - 1)),
                random.choice((0, 5, 2**32 - 1)),
            )
            return frames.PREFIX.pack(*sizes) + whole[frames.PREFIX.size :]
        case 4:
            head = random.choice(
                (b"[" * 3000, b"null", b"[1]", b'"x"', b"{", b'{"a":NaN}', b"\xff\xfe", b"1" * 5000)
            )
            return frames.PREFIX.pack(len(head), len(payload)) + head + payload
        case 5:
            return whole + whole
        case _:
            return whole


def test_all_cases_are_a_hundred_thousand():
    """Each test below counts its own."""
    assert READER_CASES + HOST_CASES + WORKSPACE_CASES + SLOT_CASES + BROKEN_SLOTS + SILENT_HOSTS >= 100_000


def test_a_reader_takes_whole_frames_and_refuses_or_awaits_all_else():
    rng, count = random.Random(1), 0
    while count < READER_CASES:
        count += 1
        reader = frames.FrameReader(max_meta=6000, max_payload=300)
        meta, payload = {"n": rng.randrange(9)}, rng.randbytes(5)
        stream = frames.encode(meta, payload) + odd_frame(rng, ANSWERS + REQUESTS)
        cut = rng.randrange(len(stream))
        taken = []
        try:
            for piece in (stream[:cut], stream[cut:]):
                reader.feed(piece)
                while (frame := reader.take()) is not None:
                    taken.append(frame)
        except frames.FrameError:
            pass
        assert taken[0] == (meta, payload)
        assert all(isinstance(frame.meta, dict) for frame in taken)
        assert reader.pending <= len(stream)


async def talk(sandbox, rng):
    """One request of each kind, or what it raises."""
    act = rng.randrange(9)
    job, session = await answered(sandbox.start("x")), await answered(sandbox.session())
    acts = [
        lambda: sandbox.exec("x", timeout_s=5),
        lambda: sandbox.read_file("f"),
        lambda: sandbox.write_files({"f": b"x"}),
        sandbox.snapshot,
        lambda: sandbox.restore({"a": FileEntry("file", 0o644, 1, b"x")}),
        lambda: sandbox.check("x", files={"t": b""}),
        lambda: job.poll() if job else sandbox.list_files(),
        lambda: session.run("x") if session else sandbox.archive(),
        sandbox.reset,
    ]
    return await answered(acts[act]())


async def answered(request):
    try:
        return await request
    except (SandboxError, OSError):  # nothing else may come of it
        return None


async def fake_supervisor(end, rng, answers):
    """Answers each request with the next of `answers`, then hangs up."""
    loop = asyncio.get_running_loop()
    with end:
        for answer in answers:
            if not await loop.sock_recv(end, 1 << 16):
                return
            cut = rng.randrange(len(answer))
            for piece in (answer[:cut], answer[cut:]):
                await loop.sock_sendall(end, piece)
            if not is_whole(answer):
                break
        end.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(end, 1 << 16):
            pass


def is_whole(answer):
    reader = frames.FrameReader()
    reader.feed(answer)
    try:
        return reader.take() is not None
    except frames.FrameError:
        return False


async def host_of(rng, answers):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    far = asyncio.create_task(fake_supervisor(theirs, rng, answers))
    link = await Link.over(ours)
    process = SlotProcess(kill=lambda: None)
    process.gone.set()
    sandbox = SupervisedSandbox(
        link, process, SandboxSpec(output_kept_bytes=100), Isolation("fake", unsafe=True)
    )
    return sandbox, far


async def test_a_host_ends_every_conversation_with_a_result_or_a_lost_sandbox():
    rng = random.Random(2)
    lost = count = 0
    while count < HOST_CASES:
        count += 1
        good = frames.encode(ANSWERS[-1])
        answers = [rng.choice((good, odd_frame(rng, ANSWERS))) for _ in range(2)] + [odd_frame(rng, ANSWERS)]
        sandbox, far = await host_of(rng, answers)
        async with asyncio.timeout(5):
            result = await talk(sandbox, rng)
            if isinstance(result, ExecResult):
                assert len(result.stdout) <= 100
                lost += result.status is ExecStatus.SANDBOX_LOST
            await sandbox.close()
            await asyncio.gather(far, return_exceptions=True)
    assert 0 < lost < HOST_CASES


async def test_a_host_waits_for_silence_no_longer_than_its_deadline():
    rng = random.Random(3)

    async def wait():
        ours, theirs = socket.socketpair()
        link = await Link.over(ours)
        process = SlotProcess(kill=lambda: None)
        process.gone.set()
        sandbox = SupervisedSandbox(link, process, SandboxSpec(), Isolation("fake", unsafe=True))
        running = asyncio.create_task(sandbox.exec("x", timeout_s=0.1))
        await asyncio.sleep(0)
        whole = frames.encode(ANSWERS[0], b"hi")
        theirs.send(whole[: rng.randrange(len(whole))])
        result = await running
        theirs.close()
        return result.status

    async with asyncio.timeout(10):
        statuses = await asyncio.gather(*(wait() for _ in range(SILENT_HOSTS)))
    assert set(statuses) == {ExecStatus.SANDBOX_LOST}


def test_file_requests_of_any_kind_are_answered_and_stay_inside(tmp_path):
    rng = random.Random(4)
    root = tmp_path / "workspace"
    root.mkdir()
    workspace = Workspace(str(root))
    outside = set(tmp_path.iterdir())
    count = 0
    while count < WORKSPACE_CASES:
        count += 1
        reader = frames.FrameReader()
        reader.feed(b"".join(workspace.perform(frames.Frame(odd_meta(rng, REQUESTS), rng.randbytes(6)))))
        assert reader.take() is not None
        assert reader.pending == 0
        assert set(tmp_path.iterdir()) == outside


async def test_a_slot_answers_every_file_request_and_lives_on():
    rng = random.Random(5)
    launcher = NativeLauncher(SandboxSpec())
    await launcher.start()
    slots = [await launcher.launch() for _ in range(4)]

    answers = []

    async def ask(slot):
        while len(answers) < SLOT_CASES:
            meta = {**odd_meta(rng, REQUESTS), "timeout_s": 20}
            if meta.get("op") not in [request["op"] for request in REQUESTS]:
                meta["op"] = "list"
            answers.append(await slot._link.request(meta, rng.randbytes(6), timeout_s=20))

    await asyncio.gather(*map(ask, slots))
    assert len(answers) >= SLOT_CASES
    for slot in slots:
        assert (await slot.exec("echo on")).stdout == b"on\n"
        await slot.close()
    await launcher.close()


COMMANDS = [
    {"op": "exec", "script": 4, "cwd": "/", "env": {}, "timeout_s": 1},
    {"op": "check", "script": 4, "files": [["a", 1]], "timeout_s": 1},
    {"op": "start", "script": 4, "cwd": "/", "env": {}},
    {"op": "open_session", "kind": "shell", "cwd": "/", "env": {}},
    {"op": "run_in_session", "session": 1, "timeout_s": 1},
    {"op": "poll", "job": 1},
    {"op": "reset"},
]


async def test_a_slot_that_is_sent_anything_answers_or_ends():
    rng = random.Random(6)
    launcher = NativeLauncher(SandboxSpec())
    await launcher.start()

    ended = []

    async def send():
        slot = await launcher.launch()
        stream = b"".join(odd_frame(rng, COMMANDS) for _ in range(3))
        heard = asyncio.get_running_loop().create_future()
        slot._link._reply = heard
        slot._link._transport.write(stream)
        if rng.random() < 0.5:
            slot._link._transport.write_eof()
        done, _ = await asyncio.wait([heard], timeout=0.3)
        if done:
            heard.exception()
        async with asyncio.timeout(10):
            await slot.close()
        ended.append(slot)

    while len(ended) < BROKEN_SLOTS:
        await asyncio.gather(*(send() for _ in range(8)))
    slot = await launcher.launch()
    assert (await slot.exec("echo on")).stdout == b"on\n"
    await slot.close()
    await launcher.close()


def test_odd_values_survive_the_wire():
    for value in ODD:
        assert json.loads(json.dumps(value)) == value
