"""What is required of a sandbox is held, or it is refused with what is in force."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atropos_agent.errors import ConfigError, SandboxUnavailable
from atropos_agent.sandbox import Isolation, SandboxPool, SandboxSpec, probe_backend
from atropos_agent.sandbox.admission import Budget, declared_bytes
from atropos_agent.sandbox.backends import BACKENDS
from atropos_agent.sandbox.cgroup import SlotMemory, find_memory_groups, memory_limit, probe_memory_groups
from atropos_agent.sandbox.requirements import (
    LIMITS,
    MECHANISMS,
    Strength,
    check_requirements,
    strength,
    unmet,
)
from tests.sandbox.conftest import as_ordinary_user
from tests.sandbox.traces import is_running

UNIFIED = next(
    (place for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(place, "cgroup.procs").exists()),
    "",
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_limit_and_mechanism_that_a_backend_names_is_known(backend):
    limits = BACKENDS[backend](SandboxSpec()).isolation.limits
    assert set(limits) <= set(LIMITS)
    assert set(limits.values()) <= set(MECHANISMS)


def test_only_what_the_kernel_or_the_supervisor_holds_is_hard():
    hard = {name for name in MECHANISMS if strength(name) is Strength.HARD}
    assert {"cgroup-v2", "cgroup-v1", "rlimit", "tmpfs", "supervisor", "namespace", "seccomp"} <= hard
    assert not hard & {"watcher", "rlimit and watcher", "host", "none"}
    assert strength("a new one") is Strength.NONE


def test_a_requirement_is_met_by_its_own_mechanism_or_by_any_hard_one():
    isolation = Isolation("x", unsafe=False, limits={"memory": "watcher", "processes": "rlimit"})
    assert unmet({"memory": "watcher", "processes": "hard"}, isolation) == {}
    assert unmet({"memory": "hard", "processes": "tmpfs"}, isolation) == {
        "memory": "hard",
        "processes": "tmpfs",
    }
    assert unmet({"network": "hard"}, isolation) == {"network": "hard"}


def test_what_cannot_be_required_is_told_with_what_can():
    with pytest.raises(ConfigError, match=r"no limit 'mem'; there are: memory, processes"):
        check_requirements({"mem": "hard"})
    with pytest.raises(
        ConfigError, match=r"require\.memory: no mechanism 'cgroup'; there are: hard, cgroup-v2"
    ):
        SandboxPool(spec=SandboxSpec(require={"memory": "cgroup"}))


@pytest.mark.integration
async def test_a_backend_that_does_not_hold_it_is_refused_by_name_and_passed_over_by_auto():
    with pytest.raises(SandboxUnavailable, match=r"local: network is held by 'none', but 'hard' is required"):
        await probe_backend("local", SandboxSpec(require={"network": "hard"}))
    only_bubblewrap = SandboxSpec(require={"inodes": "watcher"})
    assert (await probe_backend("auto", only_bubblewrap)).backend == "bubblewrap"
    nobody = SandboxSpec(require={"inodes": "watcher", "processes": "seccomp"})
    with pytest.raises(SandboxUnavailable) as refused:
        await probe_backend("auto", nobody)
    said = str(refused.value)
    assert (
        "native: inodes is held by 'tmpfs', but 'watcher' is required; processes is held by 'rlimit'" in said
    )
    assert "bubblewrap: processes is held by 'rlimit', but 'seccomp' is required. Remedy:" in said
    assert "user namespaces" not in said


ASK = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from atropos_agent.sandbox import SandboxPool, SandboxSpec
from atropos_agent.errors import SandboxUnavailable
async def main():
    try:
        async with SandboxPool(spec=SandboxSpec(require={"memory": "hard"})) as pool:
            sys.stdout.write("held by " + pool.isolation.limits["memory"])
    except SandboxUnavailable as error:
        sys.stdout.write(str(error))
asyncio.run(main())
"""


@pytest.mark.integration
def test_a_hard_memory_limit_is_had_or_refused_with_each_cgroup_that_was_probed(package_root):
    done = subprocess.run(
        [*as_ordinary_user(), "-c", ASK, package_root], capture_output=True, text=True, check=True
    )
    if not done.stdout.startswith("held by cgroup"):
        assert "native: memory is held by 'watcher', but 'hard' is required (cgroup-v2" in done.stdout
        assert "cgroup-v1" in done.stdout
        assert "Remedy: for a hard memory limit run as root, or where a cgroup" in done.stdout


@pytest.mark.integration
async def test_a_sandbox_of_its_own_spec_is_held_to_its_own_requirements():
    async with SandboxPool("native", size=1) as pool:
        with pytest.raises(SandboxUnavailable, match="but 'watcher' is required"):
            async with pool.acquire(spec=SandboxSpec(require={"processes": "watcher"})):
                pass
        async with pool.acquire(spec=SandboxSpec(require={"processes": "hard"}), timeout_s=20) as sandbox:
            assert (await sandbox.exec("echo fine")).stdout == b"fine\n"


async def test_what_never_fits_is_refused_at_once_with_the_numbers():
    budget = Budget(memory_bytes=1 << 30, overcommit=1.0)
    with pytest.raises(
        SandboxUnavailable, match=r"1\.33 GiB \(memory 1\.00 GiB, workspace 0\.25 GiB.*never fits"
    ):
        budget.check(SandboxSpec())
    huge = SandboxSpec(memory_bytes=1 << 50)
    with pytest.raises(SandboxUnavailable, match="never fits"):
        await SandboxPool("native", huge).__aenter__()
    async with SandboxPool("local", size=1) as pool:
        with pytest.raises(SandboxUnavailable, match="never fits"):
            async with pool.acquire(spec=huge):
                pass
        assert pool.stats.waiting == 0


def test_the_budget_goes_by_the_machine_and_by_our_cgroup():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    budget = Budget.of_this_machine(2.0)
    assert budget.memory_bytes == min(total, memory_limit() or total)
    assert budget.bytes == 2 * budget.memory_bytes > declared_bytes(SandboxSpec())


LIMITED = "from atropos_agent.sandbox.cgroup import memory_limit; print(memory_limit())"


@pytest.mark.integration
def test_a_cgroups_own_limit_is_found():
    groups = find_memory_groups()
    if groups is None:
        pytest.skip("no memory cgroup can be made here")
    group = groups.create(512 << 20)
    try:
        enter = f"echo $$ > {group.path}/cgroup.procs && exec {sys.executable} -c '{LIMITED}'"
        done = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, check=True)
        assert int(done.stdout) == 512 << 20
    finally:
        assert group.remove()


@pytest.mark.integration
def test_each_place_is_no_good_for_a_reason():
    probed = probe_memory_groups()
    places = [refusal.partition(":") for refusal in probed.refusals]
    assert all(place.startswith("cgroup-v") and reason.strip() for place, _, reason in places)
    assert probed.groups is not None or {place[:9] for place, _, _ in places} == {"cgroup-v1", "cgroup-v2"}


@pytest.mark.integration
def test_a_group_of_cgroup_v2_is_ended_as_one():
    try:
        path = Path(UNIFIED, f"atropos-{os.getpid()}-test")
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no group of cgroup v2 can be made here: {error}")
    group = SlotMemory(path, 2)
    sleeper = subprocess.Popen(["sleep", "100"])
    with sleeper:
        group.add(sleeper.pid)
        assert not group.remove()
        assert is_running(sleeper.pid)
        group.kill()
        assert sleeper.wait(10) == -9
    assert group.remove()
