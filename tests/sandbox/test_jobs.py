import asyncio

import pytest

from atropos_agent.sandbox import ExecStatus
from tests.sandbox.conftest import ISOLATED, DrivenSandbox, Driver

pytestmark = pytest.mark.integration


FETCH = """
import time, urllib.request
for _ in range(100):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8000/page").read())
        break
    except OSError:
        time.sleep(0.05)
"""


FORKS = """
import os, time
try:
    while os.fork():
        pass
except OSError:
    pass
time.sleep(60)
"""


KILLER = """
import os
while True:
    try:
        os.kill(-1, 9)
    except OSError:
        pass
"""


async def ended(job):
    for _ in range(1000):
        report = await job.poll()
        if not report.running:
            return report
        await asyncio.sleep(0.02)
    raise TimeoutError


async def test_a_job_goes_on_while_commands_run_and_tells_what_it_wrote(sandbox):
    job = await sandbox.start("echo one; echo err >&2; cat; sleep 0.3; echo two", stdin=b"in\n")
    assert (await sandbox.exec("echo beside")).stdout == b"beside\n"
    assert (await job.poll()).running
    report = await ended(job)
    assert (report.status, report.exit_code) == (ExecStatus.OK, 0)
    assert (report.stdout, report.stderr) == (b"one\nin\ntwo\n", b"err\n")
    assert await job.poll() == report


async def test_a_job_serves_a_port_for_commands(sandbox):
    job = await sandbox.start("/usr/bin/python3 -m http.server 8000 --bind 127.0.0.1")
    await sandbox.exec("echo content > page")
    result = await sandbox.exec("/usr/bin/python3 -", stdin=FETCH.encode())
    assert result.stdout == b"b'content\\n'\n"
    report = await job.kill()
    assert (report.status, report.signal) == (ExecStatus.KILLED, 9)


async def test_killing_a_job_ends_all_that_it_started(sandbox):
    job = await sandbox.start("setsid sh -c 'trap \"\" TERM; sleep 700' & (setsid sleep 701 &) ; sleep 702")
    await asyncio.sleep(0.2)
    assert (await sandbox.exec("cat /proc/[0-9]*/comm")).stdout.count(b"sleep") == 3
    report = await job.kill()
    assert not report.running
    assert b"sleep" not in (await sandbox.exec("cat /proc/[0-9]*/comm")).stdout
    assert await job.kill() == report


async def test_what_a_finished_job_left_running_ends_with_it(sandbox):
    job = await sandbox.start("setsid sleep 703 & exit 5")
    assert (await ended(job)).exit_code == 5
    assert b"sleep" not in (await sandbox.exec("cat /proc/[0-9]*/comm")).stdout


async def test_a_finished_job_took_as_long_as_it_ran_and_not_until_it_was_looked_at(sandbox):
    job = await sandbox.start("true")
    await asyncio.sleep(1)
    report = await job.poll()
    assert report.status is ExecStatus.OK
    assert report.duration_s < 0.9


async def test_a_job_that_cannot_start_has_failed(sandbox):
    report = await (await sandbox.start("true", cwd="/none")).poll()
    assert (report.status, report.exit_code) == (ExecStatus.NONZERO, 126)
    assert b"No such file" in report.stderr


async def test_a_job_that_floods_is_stopped_while_nobody_looks(sandbox):
    job = await sandbox.start("yes")
    await asyncio.sleep(1.5)
    report = await ended(job)
    assert report.status is ExecStatus.OUTPUT_LIMIT
    assert len(report.stdout) == 64 << 10


async def test_a_job_with_closed_streams_is_followed_to_its_end(sandbox):
    job = await sandbox.start("exec >&- 2>&- <&-; sleep 0.2; exit 6")
    other = await sandbox.start("echo other; sleep 0.1")
    assert ((await ended(job)).exit_code, (await ended(other)).stdout) == (6, b"other\n")


async def test_many_jobs_keep_their_outputs_apart(sandbox):
    jobs = [await sandbox.start(f"sleep 0.1; echo {n}; exec >&-; sleep 0.1; echo {n} >&2") for n in range(12)]
    for number, job in enumerate(jobs):
        report = await ended(job)
        assert (report.stdout, report.stderr) == (b"%d\n" % number,) * 2


@pytest.mark.parametrize("kind", ISOLATED)
async def test_a_job_that_takes_too_much_memory_is_ended_while_nobody_looks(package_root, kind):
    driver = Driver(kind, package_root, spec={"memory_bytes": 96 << 20})
    sandbox = DrivenSandbox(driver)
    hog = "/usr/bin/python3 -c 'import time; x = bytearray(300 << 20); time.sleep(60)'"
    job = await sandbox.start(hog)
    assert (await ended(job)).status is ExecStatus.OOM
    assert (await sandbox.exec("echo on")).stdout == b"on\n"
    await sandbox.close()
    driver.close()


async def test_jobs_and_sessions_are_bounded_and_leave_descriptors_for_commands(sandbox):
    jobs = [await sandbox.start("sleep 50") for _ in range(65)]
    refused = await jobs[-1].poll()
    assert (refused.exit_code, b"background jobs" in refused.stderr) == (126, True)
    assert (await jobs[0].poll()).running
    sessions = [await sandbox.session() for _ in range(16)]
    with pytest.raises(RuntimeError, match="SandboxError: too many sessions"):
        await sandbox.session()
    assert (await sandbox.exec("echo on")).stdout == b"on\n"
    await jobs[0].kill()
    await jobs[1].kill()
    assert (await (await sandbox.start("sleep 50")).poll()).running
    await sessions[0].close()
    assert (await (await sandbox.session()).run("echo new")).stdout == b"new\n"


@pytest.mark.parametrize("kind", ISOLATED)
async def test_a_job_that_cannot_be_forked_leaves_no_descriptor(package_root, kind):
    driver = Driver(kind, package_root, spec={"processes": 20})
    sandbox = DrivenSandbox(driver)
    full = await sandbox.start("/usr/bin/python3 -", stdin=FORKS.encode())
    await asyncio.sleep(0.5)
    for _ in range(400):
        report = await (await sandbox.start("true")).poll()
        assert (report.exit_code, b"temporarily unavailable" in report.stderr) == (126, True), report
    await full.kill()
    assert (await sandbox.exec("echo on")).stdout == b"on\n"
    await sandbox.close()
    driver.close()


async def test_local_has_no_jobs_and_says_so(local_sandbox):
    with pytest.raises(RuntimeError, match="SandboxError: the local backend has no background jobs"):
        await local_sandbox.start("true")


async def test_the_end_of_a_job_leaves_the_command_in_the_foreground_alone(sandbox):
    brief = await sandbox.start("sleep 0.2")
    loud = await sandbox.start("exec head -c 80000000 /dev/zero")
    result = await sandbox.exec(
        "(setsid sh -c 'sleep 0.6; echo daemon > made' &); sleep 1; cat made; echo hi"
    )
    assert (result.status, result.stdout) == (ExecStatus.OK, b"daemon\nhi\n")
    assert ((await ended(brief)).status, (await ended(loud)).status) == (
        ExecStatus.OK,
        ExecStatus.OUTPUT_LIMIT,
    )


async def test_ending_a_job_that_has_ended_touches_no_other(sandbox):
    first = await sandbox.start("true")
    await asyncio.sleep(0.3)
    second = await sandbox.start("sleep 0.5; echo second")
    await first.kill()
    shell = await sandbox.session()
    await shell.run("exit")
    third = await sandbox.start("sleep 0.5; echo third")
    await shell.close()
    reports = [await ended(job) for job in (second, third)]
    assert [report.stdout for report in reports] == [b"second\n", b"third\n"]


async def test_a_job_that_kills_everything_it_can_harms_no_file_operation(sandbox):
    await sandbox.write_files({f"f{n}": bytes(100_000) for n in range(20)})
    job = await sandbox.start("exec /usr/bin/python3 -", stdin=KILLER.encode())
    for _ in range(20):
        assert len(await sandbox.snapshot()) == 20
        assert len(await sandbox.read_file("f1")) == 100_000
    assert (await job.poll()).running


async def test_a_job_killed_for_want_of_memory_is_not_blamed_on_the_next_command(package_root):
    driver = Driver(ISOLATED[0], package_root, spec={"memory_bytes": 96 << 20})
    sandbox = DrivenSandbox(driver)
    await sandbox.start("/usr/bin/python3 -c 'import time; x = bytearray(300 << 20); time.sleep(60)'")
    await asyncio.sleep(1.5)
    assert (await sandbox.exec("echo innocent; exit 3")).status is ExecStatus.NONZERO
    assert (await sandbox.check("echo innocent; exit 3")).status is ExecStatus.NONZERO
    await sandbox.close()
    driver.close()


async def test_a_long_script_is_a_job_and_a_check_too(sandbox):
    script = "echo long #" + "x" * 200_000
    assert (await ended(await sandbox.start(script))).stdout == b"long\n"
    assert (await sandbox.check(script)).stdout == b"long\n"
