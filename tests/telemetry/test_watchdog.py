"""What the watchdog tells of, how often, and what it keeps."""

import asyncio
import json
import os
import signal
import time

import pytest

from atropos_agent.telemetry import Entry, Kind, Phase, dump_on_signal, watching
from atropos_agent.telemetry.causes import Cause, explain

LIMIT_S = 0.2


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "atropos_agent.stalled"]


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a thread logs
            await asyncio.sleep(0.02)


def a_request(phase: Phase, owner="item#0.1", **options) -> Entry:
    return Entry(Kind.REQUEST, "http://host/completion", owner=owner, step=2, phase=phase, **options)


@pytest.mark.parametrize(
    ("phase", "cause"),
    [
        (Phase.QUEUED, Cause.POOL_EXHAUSTED),
        (Phase.CONNECTING, Cause.NOT_ACCEPTING),
        (Phase.WAITING, Cause.SILENT),
        (Phase.READING, Cause.MID_STREAM),
        (Phase.BACKING_OFF, Cause.REFUSING),
        (Phase.EXECUTING, Cause.ENGINE_SILENT),
    ],
)
def test_the_phase_of_a_request_tells_the_cause(phase, cause):
    stall = explain(a_request(phase), [])
    assert stall.cause is cause
    assert stall.text.startswith(f"{cause}: request http://host/completion step 2 of item#0.1: ")


def test_a_request_tried_again_because_nobody_accepts_is_one_that_is_not_accepted():
    entry = a_request(Phase.CONNECTING)
    entry.again(3, "no connection within 3 s")
    assert explain(entry, []).cause is Cause.NOT_ACCEPTING
    assert "attempt 3" in explain(entry, []).text


def test_an_exhausted_pool_names_who_holds_its_places():
    holders = [a_request(Phase.WAITING, owner=f"other#{n}") for n in range(5)]
    text = explain(a_request(Phase.QUEUED, places=5), holders).text
    assert "5 of 5 places are taken (other#0 step 2: waiting for the first byte for" in text
    assert "2 more)" in text


async def test_each_standstill_is_told_once_and_then_at_growing_distances(caplog):
    async with asyncio.timeout(10):
        with watching(LIMIT_S), a_request(Phase.WAITING):
            await until(lambda: len(told(caplog)) == 1)
            await asyncio.sleep(LIMIT_S / 2)
            assert len(told(caplog)) == 1
            await until(lambda: len(told(caplog)) == 2)
    assert all(text.startswith(str(Cause.SILENT)) for text in told(caplog))


async def test_many_alike_are_one_line(caplog):
    entries = [a_request(Phase.WAITING, owner=f"r{n}") for n in range(40)]
    with watching(LIMIT_S):
        for entry in entries:
            entry.__enter__()
        await until(lambda: told(caplog))
        for entry in entries:
            entry.__exit__(None, None, None)
    assert "(and 39 more like it)" in told(caplog)[0]
    assert sum(text.startswith(str(Cause.SILENT)) for text in told(caplog)) == 1


async def test_what_gets_on_and_a_sandbox_in_use_are_not_told_of(caplog):
    with (
        watching(LIMIT_S),
        a_request(Phase.READING) as entry,
        Entry(Kind.SANDBOX, "auto", phase=Phase.IN_USE),
    ):
        for _ in range(12):
            entry.read(100)
            await asyncio.sleep(LIMIT_S / 4)
    assert told(caplog) == []


async def test_a_queue_whose_holders_get_on_is_busy_not_stalled(caplog):
    with (
        watching(LIMIT_S),
        a_request(Phase.QUEUED, places=1),
        a_request(Phase.READING, owner="holder#0") as holder,
        Entry(Kind.SANDBOX, "auto", owner="second#0", phase=Phase.QUEUED, places=1),
        Entry(Kind.SANDBOX, "auto", owner="holder#0", phase=Phase.IN_USE),
    ):
        for _ in range(12):
            holder.read(100)
            await asyncio.sleep(LIMIT_S / 4)
        assert told(caplog) == []
        await until(lambda: len(told(caplog)) == 3)
    assert {text.partition(":")[0] for text in told(caplog)} == {
        Cause.POOL_EXHAUSTED,
        Cause.SANDBOXES_EXHAUSTED,
        Cause.MID_STREAM,
    }


async def test_the_recorder_keeps_a_standstill_and_its_end(tmp_path, caplog):
    file = tmp_path / "flight.jsonl"
    with watching(LIMIT_S) as watchdog:
        assert watchdog is not None
        with watchdog.recording(file), a_request(Phase.WAITING):
            await until(lambda: told(caplog))
    stalled, *_, ended = [json.loads(line) for line in file.read_text().splitlines()]
    assert (stalled["event"], stalled["cause"], stalled["owner"]) == ("stalled", "silent", "item#0.1")
    assert (ended["event"], ended["owner"]) == ("ended", "item#0.1")
    assert ended["time"] >= stalled["time"]


async def test_nothing_is_written_where_nothing_stands_still(tmp_path):
    with watching(LIMIT_S) as watchdog:
        assert watchdog is not None
        with watchdog.recording(tmp_path / "flight.jsonl"), a_request(Phase.WAITING):
            await asyncio.sleep(LIMIT_S / 4)
    assert not (tmp_path / "flight.jsonl").exists()


async def test_a_signal_dumps_the_table_and_the_stacks(caplog, capfd, tmp_path):
    with watching(60.0) as watchdog, dump_on_signal(watchdog), a_request(Phase.QUEUED):
        assert watchdog is not None
        with watchdog.recording(tmp_path / "flight.jsonl"):
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: told(caplog))
    assert "request http://host/completion step 2 of item#0.1: queued for" in told(caplog)[0]
    (line,) = (tmp_path / "flight.jsonl").read_text().splitlines()
    assert json.loads(line)["in_flight"][0]["phase"] == "queued"
    assert "test_a_signal_dumps_the_table" in capfd.readouterr().err


async def test_code_that_blocks_the_loop_is_shown(caplog):
    with watching(LIMIT_S):
        time.sleep(4 * LIMIT_S)  # noqa: ASYNC251 - the fault itself
        await until(lambda: told(caplog))
    (text,) = told(caplog)
    assert text.startswith(str(Cause.LOOP_BLOCKED))
    assert "time.sleep(4 * LIMIT_S)" in text


async def test_watching_twice_tells_once(caplog):
    with watching(LIMIT_S) as first, watching(LIMIT_S) as second, a_request(Phase.WAITING):
        assert first is second
        await until(lambda: told(caplog))
    assert len(told(caplog)) == 1


async def test_no_threshold_no_watchdog():
    with watching(None) as watchdog:
        assert watchdog is None
