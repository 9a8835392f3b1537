"""The slot's file tree: an empty root into which only /usr and named system folders are shown, read-only."""

from __future__ import annotations

import os
import re
import stat

from atropos_agent.sandbox.inside import linux

OLD = "/.host"
WORKSPACE = "/workspace"
USER_ID = 1000
TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
CONFIGURATION = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
    "ptmx": "pts/ptmx",
}
TMP_BYTES = 64 << 20
SHM_BYTES = 16 << 20
_TMP_OPTIONS = f"size={TMP_BYTES},nr_inodes=20k,mode=1777"
_TERMINALS_OPTIONS = "newinstance,ptmxmode=0666,mode=0620,max=64"
_SHM_OPTIONS = f"size={SHM_BYTES},nr_inodes=1k,mode=1777"
# statvfs flags that an unprivileged remount must keep, with their mount(2) values
_KEPT_FLAGS = (
    (1, linux.MS_RDONLY),
    (2, linux.MS_NOSUID),
    (4, linux.MS_NODEV),
    (8, linux.MS_NOEXEC),
    (1024, 1024),
    (2048, 2048),
    (4096, 1 << 21),
)

ETC = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    f"sandbox:x:{USER_ID}:{USER_ID}:sandbox:{WORKSPACE}:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nsandbox:x:{USER_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def build(
    *, workspace_bytes: int, workspace_inodes: int, binds: list[tuple[str, str]], template: str = ""
) -> None:
    """Replace the file tree of this mount namespace. `binds` are (source on the host, path inside); the
    workspace shows the host's directory `template`.

    Raises OSError whose filename names the stage.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    _enter_empty_root()
    _show_system()
    _make_devices()
    for name in ("/proc", "/tmp", WORKSPACE):  # noqa: S108 the slot's own /tmp
        os.makedirs(name, exist_ok=True)
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("proc", "/proc", "proc", flags | linux.MS_NOEXEC)
    linux.mount("tmpfs", "/tmp", "tmpfs", flags, _TMP_OPTIONS)  # noqa: S108
    linux.mount("tmpfs", "/dev/shm", "tmpfs", flags, _SHM_OPTIONS)  # noqa: S108
    options = f"size={workspace_bytes},nr_inodes={workspace_inodes},mode=755"
    linux.mount("tmpfs", WORKSPACE, "tmpfs", flags, options)
    if template:
        _overlay(template, flags)
    for source, target in binds:
        _bind(source, target)
    linux.detach(OLD)
    os.rmdir(OLD)
    linux.mount(None, "/", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)
    os.chdir("/")


def _overlay(template: str, flags: int) -> None:
    """Show the host's `template` as the workspace; changes go to the sized tmpfs that was there."""
    for name in ("upper", "work"):
        os.mkdir(f"{WORKSPACE}/{name}")
    os.chdir(OLD + template)  # a relative path has no blank or colon that the options could mistake
    options = f"lowerdir=.,upperdir={WORKSPACE}/upper,workdir={WORKSPACE}/work,userxattr"
    linux.mount("overlay", WORKSPACE, "overlay", flags, options)
    os.chdir("/")


def write_file(path: str, content: str) -> None:
    """Write a small file in one call; a file object would touch, and so copy, many pages of each fork."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, content.encode())
    finally:
        os.close(descriptor)


def _enter_empty_root() -> None:
    """A small tmpfs becomes the root. /proc is covered on the way only because it always exists."""
    linux.mount("tmpfs", "/proc", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,nr_inodes=1k,mode=755")
    old = "/proc" + OLD
    os.mkdir(old)
    linux.pivot_root("/proc", old)
    os.chdir("/")


def _show_system() -> None:
    _bind("/usr", "/usr")
    for name in TOP_LEVEL:
        source = f"{OLD}/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), f"/{name}")
        elif os.path.isdir(source):
            _bind(f"/{name}", f"/{name}")
    os.mkdir("/etc")
    for name, content in ETC.items():
        write_file(f"/etc/{name}", content)
    os.symlink("../usr/lib/os-release", "/etc/os-release")
    for path in CONFIGURATION:
        if os.path.exists(OLD + path):
            _bind(path, path)


def _make_devices() -> None:
    os.makedirs("/dev/shm")  # noqa: S108
    os.mkdir("/dev/pts")
    linux.mount("devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, _TERMINALS_OPTIONS)
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"/dev/{name}", linux.MS_NOSUID | linux.MS_NOEXEC)
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")


def _bind(source: str, target: str, flags: int = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV) -> None:
    """Show the host's `source` at `target`, and everything mounted below it, with `flags` added."""
    try:
        is_directory = stat.S_ISDIR(os.stat(OLD + source).st_mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"bind {source}") from error
    if is_directory:
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.mount(OLD + source, target, None, linux.MS_BIND | linux.MS_REC)
    for point in _mounts_below(target) if is_directory else (target,):
        present = os.statvfs(point).f_flag
        kept = sum(value for bit, value in _KEPT_FLAGS if present & bit)
        linux.mount(None, point, None, linux.MS_REMOUNT | linux.MS_BIND | flags | kept)


def _mounts_below(target: str) -> list[str]:
    """The mount points at and below `target`, from a table in which blanks of a path are octal escapes."""
    prefix = os.fsencode(target)
    points: set[bytes] = set()
    with open(f"{OLD}/proc/self/mountinfo", "rb") as table:
        for line in table:
            point = line.split(b" ", 5)[4]
            if b"\\" in point:
                point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), point)
            if point == prefix or point.startswith(prefix + b"/"):
                points.add(point)
    return [os.fsdecode(point) for point in sorted(points)]
