"""What `doctor --sandbox` finds: each limit tried for real; each probe fails where nothing holds."""

import pytest

from atropos_agent.doctor import Check, Grade, examine_kernel, examine_sandboxes, judge_sandboxes
from atropos_agent.doctor.sandbox import BROKEN, spec_for
from atropos_agent.doctor.sandbox_probes import PROBES, SMALL, bait
from atropos_agent.errors import ConfigError
from atropos_agent.sandbox import Isolation
from atropos_agent.sandbox import backends as backends_module
from atropos_agent.sandbox import native as native_module
from atropos_agent.sandbox.cgroup import find_memory_groups
from atropos_agent.sandbox.local import LocalLauncher
from atropos_agent.sandbox.requirements import LIMITS, MEMORY_CURE

pytestmark = pytest.mark.integration


async def examined(backend):
    return [found async for found in examine_sandboxes(backend)]


def grades(found):
    return {limit.check.name: limit.check.grade for limit in found.limits}


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
async def test_an_isolated_backend_holds_every_limit_it_names(backend):
    (found,) = await examined(backend)
    assert found.refusal is None
    assert set(grades(found)) == set(PROBES)
    lost = {name for name, grade in grades(found).items() if grade is not Grade.GOOD}
    watched = {"memory": find_memory_groups() is None, "inodes": backend == "bubblewrap"}
    assert lost == {name for name, is_watched in watched.items() if is_watched}
    verdict = judge_sandboxes([found], backend)
    assert verdict.grade is (Grade.LOSS if lost else Grade.GOOD)


async def test_local_leaks_and_is_judged_by_that():
    (found,) = await examined("local")
    leaking = {
        name for name in ("network", "files", "secrets", "syscalls") if grades(found)[name] is Grade.LOSS
    }
    assert leaking == {"network", "files", "secrets", "syscalls"}
    tried = {limit.check.name: limit.check.text for limit in found.limits}
    assert tried["memory"] == "not tried, since nothing holds it"
    assert tried["network"].startswith("a listener of this machine was reached")
    assert "a file of this machine was read" in tried["files"]
    assert "its environment read" in tried["secrets"]
    verdict = judge_sandboxes([found], "local")
    assert (verdict.grade, verdict.text[:42]) == (Grade.LOSS, "usable with loss: local isolates nothing: ")


class FakeHardLauncher(LocalLauncher):
    """Says that everything is held, and holds nothing."""

    @property
    def isolation(self):
        return Isolation("native", unsafe=False, limits=dict.fromkeys(LIMITS, "seccomp"))


async def test_a_backend_that_says_what_is_not_is_found_out_limit_by_limit(monkeypatch):
    monkeypatch.setitem(backends_module.BACKENDS, "native", FakeHardLauncher)
    (found,) = await examined("native")
    good = {name for name, grade in grades(found).items() if grade is Grade.GOOD}
    assert good <= {"output", "wall", "identity", "check"}, found
    assert {
        "memory",
        "processes",
        "workspace",
        "inodes",
        "cpu",
        "network",
        "files",
        "secrets",
    } & good == set()
    verdict = judge_sandboxes([found], None)
    assert verdict.grade is Grade.BAD
    assert "a file of this machine was read" in verdict.text
    assert verdict.act == BROKEN


async def test_memory_that_is_only_watched_is_a_loss_with_its_cure(monkeypatch):
    monkeypatch.setattr(native_module, "find_memory_groups", lambda: None)
    (found,) = await examined("native")
    (memory,) = (limit for limit in found.limits if limit.check.name == "memory")
    assert (memory.mechanism, memory.strength, memory.check.grade) == ("watcher", "watched", Grade.LOSS)
    assert "96 MiB are allowed: oom" in memory.check.text
    assert judge_sandboxes([found], None).act == MEMORY_CURE


async def test_the_verdict_is_on_what_auto_takes_or_on_what_was_asked_for(monkeypatch):
    class FakeBrokenLauncher(native_module.NativeLauncher):
        async def start(self):
            raise OSError(38, "Function not implemented", "clone")

    monkeypatch.setitem(backends_module.BACKENDS, "native", FakeBrokenLauncher)
    found = await examined("auto")
    assert [one.refusal is None for one in found] == [False, True]
    assert "Function not implemented" in found[0].refusal.text
    assert judge_sandboxes(found, None).grade is Grade.LOSS  # bubblewrap's files are counted
    refused = judge_sandboxes(found, "native")
    assert refused.grade is Grade.BAD
    assert refused.act.startswith("Remedy: ")


async def test_a_backend_that_does_not_exist_is_wrong_input():
    with pytest.raises(ConfigError, match="no sandbox backend 'nope'"):
        await examined("nope")


def test_the_kernel_is_told_with_every_memory_cgroup_that_was_probed():
    checks = list(examine_kernel())
    assert checks[0].text.startswith("Linux ")
    assert "user.max_user_namespaces" in {check.name for check in checks}
    groups = [check for check in checks if check.name == "memory cgroup"]
    assert groups
    assert (groups[-1].grade is Grade.GOOD) == (find_memory_groups() is not None)
    assert all(isinstance(check, Check) and check.text for check in checks)


def test_bait_is_gone_afterwards():
    with bait() as lure:
        assert lure.file.read_text() == lure.token
    assert not lure.file.exists()


def test_no_other_probe_is_stopped_by_the_cpu_limit():
    assert {name for name in PROBES if spec_for(name, SMALL).cpu_s is not None} == {"cpu"}
