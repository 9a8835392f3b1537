"""Who a slot is on the host, seen from there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import SandboxError
from atropos_agent.sandbox import ExecStatus, SandboxSpec
from atropos_agent.sandbox.bubblewrap import BubblewrapLauncher
from atropos_agent.sandbox.identity import Identities, _block, _mapped, identities
from atropos_agent.sandbox.native import NativeLauncher
from tests.sandbox.conftest import ORDINARY_UID, DrivenSandbox, Driver

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives slots other uids")
LAUNCHERS = [NativeLauncher, BubblewrapLauncher]
FEW_EXIST = "0 0 65536"
ONE_EXISTS = "0 0 1\n64055 64055 1"
NONE_EXISTS = "0 0 1"


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def first_processes(ancestor):
    """pid: status of each descendant that is pid 1 of a namespace."""
    found = {}
    for child in Path(f"/proc/{ancestor}/task").glob("*/children"):
        for pid in child.read_text().split():
            status = status_of(pid)
            if status["NSpid"][-1] == "1":
                found[int(pid)] = status
            found |= first_processes(pid)
    return found


def slots_of(launcher):
    """The statuses of its slots' pids 1."""
    helpers = [launcher._helper.pid] if isinstance(launcher, NativeLauncher) else list(launcher._processes)
    return [status for helper in helpers for status in first_processes(helper).values()]


def is_confined(status):
    """False where the pool is still setting the slot up."""
    return int(status["CapEff"][0], 16) == 0


def ids_of(status):
    """The uid and the gid, if it is one in every respect."""
    (uid,), (gid,) = set(status["Uid"]), set(status["Gid"])
    return int(uid), int(gid)


@pytest.fixture(params=LAUNCHERS)
async def launcher(request):
    started = request.param(SandboxSpec())
    await started.start()
    yield started
    await started.close()


@pytest.mark.integration
@as_root
async def test_each_slot_is_a_user_of_its_own_without_any_privilege(launcher):
    slots = [await launcher.launch() for _ in range(3)]
    found = slots_of(launcher)
    ids = [ids_of(status) for status in found]
    assert len(set(ids)) == 3
    assert not {0, identities().base} & {number for pair in ids for number in pair}
    assert all(uid == gid for uid, gid in ids)
    for status in found:
        assert status["Groups"] == []
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name][0], 16) == 0
    assert launcher.isolation.limits["identity"] == "uid-per-slot"
    for slot in slots:
        assert (
            await slot.exec("id -u; id -g; echo x > f; stat -c %u:%g f")
        ).stdout == b"1000\n1000\n1000:1000\n"
        await slot.close()


@pytest.mark.integration
@as_root
async def test_a_uid_is_free_again_only_once_its_slot_is_gone(launcher):
    mine = identities()
    others = [mine.take() for _ in range(len(mine) - 2)]
    try:
        first, second = [await launcher.launch() for _ in range(2)]
        uids = {ids_of(status) for status in slots_of(launcher)}
        with pytest.raises(SandboxError, match="every uid set aside for slots is in use"):
            await launcher.launch()
        await first.close()
        third = await launcher.launch()
        assert {ids_of(status) for status in slots_of(launcher)} == uids
        for slot in (second, third):
            assert (await slot.exec("echo alive")).status is ExecStatus.OK
            await slot.close()
    finally:
        for uid in others:
            mine.give_back(uid)


@pytest.mark.integration
@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
def test_the_slots_of_an_ordinary_user_are_that_user(package_root, backend):
    driver = Driver(f"{backend}-as-user", package_root)
    DrivenSandbox(driver)
    found = first_processes(driver.pid)
    own = int(status_of(driver.pid)["Uid"][0])
    assert {ids_of(status)[0] for status in found.values() if is_confined(status)} == {own}
    assert own == (ORDINARY_UID if os.geteuid() == 0 else os.geteuid())
    assert driver.isolation.limits["identity"] == "uid-shared"
    driver.close()


@pytest.mark.integration
@as_root
@pytest.mark.parametrize(
    ("table", "mechanism", "possible"),
    [
        (FEW_EXIST, "uid-per-slot", range(60_579, 61_184)),
        (ONE_EXISTS, "uid-shared", range(64_055, 64_056)),
    ],
)
async def test_root_of_a_user_namespace_takes_what_uids_there_are(package_root, table, mechanism, possible):
    through = [sys.executable, str(package_root / "tests/sandbox/in_user_namespace.py"), table]
    driver = Driver("native-as-root", package_root, through=through)
    sandboxes = [DrivenSandbox(driver) for _ in range(2)]
    found = first_processes(driver.pid).values()
    uids = [ids_of(status)[0] for status in found if is_confined(status)]
    assert set(uids) <= set(possible)
    assert len(uids) >= 2
    assert (len(set(uids)) == len(uids)) == (mechanism == "uid-per-slot")
    assert driver.isolation.limits["identity"] == mechanism
    for sandbox in sandboxes:
        assert (await sandbox.exec("id -u")).stdout == b"1000\n"
        await sandbox.close()
    driver.close()


@pytest.mark.integration
@as_root
def test_root_of_a_user_namespace_without_other_uids_is_refused(package_root):
    scripts = package_root / "tests/sandbox"
    driver = [sys.executable, str(scripts / "driver.py"), str(package_root), "native", "{}"]
    done = subprocess.run(
        [sys.executable, str(scripts / "in_user_namespace.py"), NONE_EXISTS, *driver],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"in a user namespace without other uids: run as an ordinary user" in done.stderr


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_no_uid_is_two_slots_at_once(acts, size):
    supply = Identities(100, range(101, 101 + size))
    in_use = []
    for take in acts:
        if not take and in_use:
            supply.give_back(in_use.pop(0))
        elif take and len(in_use) < size:
            uid = supply.take()
            assert uid not in (0, 100, *in_use)
            in_use.append(uid)
    assert len(supply) == size - len(in_use)


@given(st.sets(st.integers(1, 60_000), min_size=2, max_size=2))
def test_two_processes_have_no_uid_in_common(pids):
    one, other = map(_block, pids)
    assert not set(one) & set(other)
    for block in (one, other):
        assert len(block) == 4096
        assert 1_880_000_000 <= block[0] <= block[-1] < 2_140_000_000


def test_uids_exist_where_one_line_of_the_table_holds_them_all():
    table = "         0       1000          1\n         1     100000      65536\n"
    assert _mapped(range(60_578, 61_184), table)
    assert not _mapped(range(65_000, 65_600), table)
    assert not _mapped(range(2), table)
