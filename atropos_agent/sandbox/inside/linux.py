"""System calls that the standard library lacks. A failure is an OSError whose filename is the stage."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from fcntl import ioctl

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
ALL_NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

_CAPABILITY_VERSION_3 = 0x2008_0522
_SIGCHLD = 17
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_NUMBERS = {"x86_64": {"clone": 56, "pivot_root": 155}, "aarch64": {"clone": 220, "pivot_root": 41}}

# PyDLL keeps the interpreter lock: nothing may run between clone() and its return in the child.
_libc = ctypes.PyDLL(None, use_errno=True)


def _checked(result: int, stage: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), stage)
    return result


def clone(flags: int) -> int:
    """Fork into new namespaces: 0 in the child, its pid in the caller. The process must have one thread."""
    number = _NUMBERS[os.uname().machine]["clone"]
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_ulong(flags | _SIGCHLD), None, None, None, None)
    return _checked(result, "clone")


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root of this mount namespace and show the former one at `old_root`."""
    number = ctypes.c_long(_NUMBERS[os.uname().machine]["pivot_root"])
    _checked(_libc.syscall(number, os.fsencode(new_root), os.fsencode(old_root)), "pivot_root")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    values = [None if value is None else os.fsencode(value) for value in (source, target, kind, options)]
    result = _libc.mount(values[0], values[1], values[2], ctypes.c_ulong(flags), values[3])
    _checked(result, f"mount {kind or 'bind'} {target}")


def detach(target: str) -> None:
    """umount2(2), lazily."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def prctl(option: int, *arguments: int) -> int:
    """prctl(2)."""
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(option, *padded), f"prctl {option}")


def drop_capabilities() -> None:
    """Empty the bounding, ambient, inheritable, permitted and effective sets of this process for good."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if prctl(PR_CAPBSET_READ, capability):
            prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    _checked(_libc.capset(header, ctypes.create_string_buffer(24)), "capset")


def install_filter(program: bytes) -> None:
    """Put a seccomp BPF program (8 bytes an instruction) in force. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    )
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(descriptor))


def bring_loopback_up() -> None:
    """Set the lo interface of this network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        ioctl(anything, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
