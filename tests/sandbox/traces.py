"""What a pool could leave behind: processes, cgroups, directories, mounts, descriptors."""

import os
import time
from pathlib import Path

from atropos_agent.sandbox.cgroup import find_memory_groups


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_pid_1(pid):
    """True for the first process of a slot."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (pids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return len(pids) > 1 and pids[-1] == "1"


def descendants(root=None):
    """Processes started by `root` (default: us), at any depth."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(parent_of(entry.name), set()).add(int(entry.name))
            except OSError:
                continue
    found, waiting = set(), [root or os.getpid()]
    while waiting:
        new = children.get(waiting.pop(), set())
        found |= new
        waiting += new
    return found


def supervisor_of(argument):
    """The pid 1, as we see it, of the sandbox in which `sleep ARGUMENT` runs under a shell."""
    expected = b"sleep\0" + argument.encode() + b"\0"
    (sleeper,) = (pid for pid in descendants() if command_line(pid) == expected)
    return parent_of(parent_of(sleeper))


def survivors(family, within_s=1.0):
    """The command lines of those of `family` that still run after that time."""
    for _ in range(int(within_s / 0.02)):
        if not any(map(is_running, family)):
            break
        time.sleep(0.02)
    return {command_line(pid) for pid in family if is_running(pid)}


def groups():
    place = find_memory_groups()
    return set(place.parent.glob(f"atropos-{os.getpid()}-*")) if place else set()


def traces():
    """All of it, of this process."""
    directories = set(Path("/tmp").glob(f"atropos-*-{os.getpid()}-*"))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return descendants(), groups(), directories, Path("/proc/self/mountinfo").read_text(), descriptors
