"""What to do where no sandbox can be had: the kernel's own settings, read, and their cure."""

from __future__ import annotations

import errno
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "install bubblewrap >= 0.8 with its AppArmor profile (apt install bubblewrap apparmor-profiles), or "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
_CONTAINER = (
    "in a container, start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined"
)
_UNSAFE = "--sandbox.backend=local runs commands WITHOUT any isolation (UNSAFE)"


@dataclass(frozen=True, slots=True)
class KernelSetting:
    """A file below /proc/sys ("" where this kernel has none), and the cure if it forbids user namespaces."""

    name: str
    value: str
    cure: str


def kernel_settings() -> tuple[KernelSetting, ...]:
    """The settings that user namespaces depend on, as they are."""
    found = ((name.replace("/", "."), _setting(name), bad, cure) for name, bad, cure in _SWITCHES)
    return tuple(KernelSetting(name, value, cure if value == bad else "") for name, value, bad, cure in found)


def remedies(refusals: Sequence[str], platform: str = sys.platform) -> str:
    """One sentence with what was found wrong on this machine and what cures it."""
    if platform != "linux":
        return f"Sandboxes need Linux; this is {platform}: use a Linux machine, VM or container. {_UNSAFE}"
    found = [setting.cure for setting in kernel_settings() if setting.cure]
    if in_container() or (not found and any("mount proc" in refusal for refusal in refusals)):
        found.append(_CONTAINER)
    if not found:
        found.append(f"allow unprivileged user namespaces, or install bubblewrap >= 0.8; {_CONTAINER}")
    return f"Remedy: {'; or '.join(found)}. {_UNSAFE}"


def cure_of_launch(error: OSError) -> str:
    """What helps against the failure of a single launch, to be appended; "" where nothing is known."""
    if error.errno != errno.EMFILE:
        return ""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"; {allowed} are allowed and each sandbox takes two: raise that (ulimit -n) or ask for fewer"


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


def in_container() -> bool:
    """True where docker or podman left its mark."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
