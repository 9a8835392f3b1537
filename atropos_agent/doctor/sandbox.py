"""Sandboxes, looked at backend by backend: what is in force, how hard, and what it does to an attack."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from atropos_agent.doctor.findings import Check, Grade, Verdict, judge
from atropos_agent.doctor.sandbox_probes import HARMLESS, PROBES, SMALL, Bait, Probe, bait
from atropos_agent.errors import SandboxError
from atropos_agent.sandbox.backends import AUTO, BACKENDS, Launcher, Refusal, attempt, check_backend
from atropos_agent.sandbox.cgroup import probe_memory_groups
from atropos_agent.sandbox.engine import DOCKER, PODMAN, Engine
from atropos_agent.sandbox.protocol import Isolation, SandboxSpec
from atropos_agent.sandbox.remedy import in_container, kernel_settings, remedies
from atropos_agent.sandbox.requirements import LIMITS, MEMORY_CURE, Strength, in_force, strength

UNSAFE = "let it run only what may do anything to this machine, or use --sandbox.backend=auto"
BROKEN = "use another --sandbox.backend, and report this table: what is said to be in force is not"
ENGINES = {DOCKER.name: DOCKER, PODMAN.name: PODMAN}
IMAGE_NEEDED = "atropos-agent doctor --sandbox --image NAME"
HOLDS_THE_MACHINE = ("memory", "processes", "workspace", "inodes", "network", "syscalls", "check")
"""Limits whose strength counts. CPU time is held hard for each process; slots without a uid of their own are
still separated by their namespaces."""


@dataclass(frozen=True, slots=True)
class LimitFound:
    """One limit of a backend: the mechanism that holds it ("" for what only follows from the others)."""

    mechanism: str
    check: Check

    @property
    def strength(self) -> str:
        """How strong the mechanism is."""
        return strength(self.mechanism) if self.mechanism else ""


@dataclass(frozen=True, slots=True)
class BackendFound:
    """A backend that was tried; no limits where it was refused."""

    backend: str
    refusal: Refusal | None
    limits: tuple[LimitFound, ...] = ()
    unsafe: bool = False

    @property
    def checks(self) -> list[Check]:
        """What speaks for and against it."""
        if self.refusal is not None:
            act = self.refusal.cure or "do what the refusal says"
            return [Check(self.backend, Grade.BAD, f"{self.backend}: {self.refusal.text}", act)]
        if self.unsafe:
            text = (
                f"{self.backend} isolates nothing: commands reach this machine's files, processes and network"
            )
            return [Check(self.backend, Grade.LOSS, text, UNSAFE)]
        return [limit.check for limit in self.limits]


def examine_kernel() -> Iterator[Check]:
    """What the kernel and its settings have to do with sandboxes."""
    system = platform.uname()
    where = ", in a container" if in_container() else ""
    yield Check("kernel", Grade.GOOD, f"{system.system} {system.release} on {system.machine}{where}")
    for setting in kernel_settings():
        grade = Grade.UNKNOWN if setting.cure else Grade.GOOD
        yield Check(setting.name, grade, setting.value or "not there", setting.cure)
    probed = probe_memory_groups()
    for refusal in probed.refusals:
        place, _, reason = refusal.partition(": ")
        yield Check("memory cgroup", Grade.UNKNOWN, f"{place}: {reason}")
    if probed.groups is not None:
        text = f"{probed.groups.mechanism} at {probed.groups.parent}"
        yield Check("memory cgroup", Grade.GOOD, text)


async def examine_sandboxes(backend: str | None = None, image: str = "") -> AsyncIterator[BackendFound]:
    """Try one backend, or all; docker and podman with `image`. Raises ConfigError for a name that is none."""
    names = tuple(BACKENDS)
    if backend is not None:
        check_backend(backend)
        names = AUTO if backend == "auto" else (backend,)
    with bait() as lure:
        for name in names:
            yield await _examine(name, image, lure)


def judge_sandboxes(found: Sequence[BackendFound], asked: str | None) -> Verdict:
    """The verdict on the backend that was asked for, else on the one that "auto" takes."""
    wanted = AUTO if asked in (None, "auto") else (asked,)
    tried = [one for one in found if one.backend in wanted]
    taken = next((one for one in tried if one.refusal is None), None)
    if taken is None:
        refusals = [check for one in tried for check in one.checks]
        return judge(refusals, "", remedies([check.text for check in refusals]))
    hard = [limit.check.name for limit in taken.limits if limit.strength == Strength.HARD]
    option = "" if asked is None else f" --sandbox.backend={asked}"
    ready = f"{taken.backend} holds {', '.join(hard)} hard"
    return judge(taken.checks, ready, f"atropos-agent collect CONFIG.yaml{option}")


async def _examine(backend: str, image: str, lure: Bait) -> BackendFound:
    if backend in ENGINES and not image:
        return BackendFound(backend, await _without_image(ENGINES[backend]))
    spec = replace(SMALL, image=image if backend in ENGINES else "")
    opened = await attempt(backend, spec)
    if isinstance(opened, Refusal):
        return BackendFound(backend, opened)
    launcher, slot = opened
    try:
        isolation = slot.isolation
        await slot.close()
        others = (limit for limit in isolation.limits if limit not in PROBES)
        names = (*PROBES, *(limit for limit in others if in_force(isolation, limit) != Strength.NONE))
        limits = [await _limit(name, launcher, spec_for(name, spec), isolation, lure) for name in names]
    finally:
        await launcher.close()
    return BackendFound(backend, None, tuple(limits), isolation.unsafe)


async def _without_image(engine: Engine) -> Refusal:
    try:
        await engine.sweep()
    except (SandboxError, OSError) as error:
        return Refusal(engine.name, str(error), "")
    return Refusal(engine.name, f"it serves, and runs images: try one with `{IMAGE_NEEDED}`", IMAGE_NEEDED)


def spec_for(probe: str, spec: SandboxSpec) -> SandboxSpec:
    """What the sandbox of a probe is: CPU time is limited for its own alone, since a process that is at the
    end of its memory can use a lot of it before it is killed."""
    return spec if probe == "cpu" else replace(spec, cpu_s=None)


async def _limit(
    name: str, launcher: Launcher, spec: SandboxSpec, isolation: Isolation, lure: Bait
) -> LimitFound:
    mechanism = in_force(isolation, name) if name in LIMITS else ""
    if name not in PROBES:
        return LimitFound(mechanism, Check(name, Grade.UNKNOWN, "not tried"))
    if isolation.unsafe and name not in HARMLESS:
        return LimitFound(mechanism, Check(name, Grade.LOSS, "not tried, since nothing holds it"))
    found = await _tried(PROBES[name], name, launcher, spec, lure)
    if isolation.unsafe and found.grade is Grade.BAD:
        return LimitFound(mechanism, replace(found, grade=Grade.LOSS))
    return LimitFound(mechanism, _weighed(found, mechanism))


def _weighed(found: Check, mechanism: str) -> Check:
    """A finding in the light of what was said to be in force."""
    said = strength(mechanism) if found.name in HOLDS_THE_MACHINE else Strength.HARD
    act = MEMORY_CURE if found.name == "memory" else ""
    if said is Strength.NONE:
        return Check(found.name, Grade.LOSS, f"nothing holds {found.name} ({found.text})", act)
    if found.grade is Grade.BAD:
        return replace(found, act=found.act or BROKEN)
    if said is Strength.WATCHED:
        text = f"{found.name} is held by a {mechanism}, which a quick burst overshoots ({found.text})"
        return Check(found.name, Grade.LOSS, text, act)
    return found


async def _tried(probe: Probe, name: str, launcher: Launcher, spec: SandboxSpec, lure: Bait) -> Check:
    """The probe's finding in a sandbox of its own, or what stopped it."""
    try:
        slot = await launcher.launch(spec)
        try:
            return await probe(slot, lure)
        finally:
            await slot.close()
    except (SandboxError, OSError, ValueError) as error:
        return Check(name, Grade.BAD, f"{name} could not be tried: {type(error).__name__}: {error}")
