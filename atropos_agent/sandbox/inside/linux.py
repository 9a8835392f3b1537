"""System calls that the standard library lacks. A failure is an OSError whose filename is the stage."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import stat
import struct
from collections.abc import Callable
from fcntl import ioctl

CLONE_PARENT = 0x0000_8000
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
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

_LAST_POSSIBLE_CAPABILITY = 63
CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7

# Landlock: what each version of its interface can withhold, of what changes files or the tree of names
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_ASKED = 1
_PATH_BENEATH = 1
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_OR_MAKE = 0b1_1111_1111 << 4  # remove dir, file; make char, dir, reg, sock, fifo, block, sym
LANDLOCK_TRUNCATE = 3  # the first version that can withhold truncation
_WRITES_SINCE = {1: _WRITE_FILE | _REMOVE_OR_MAKE, 2: _REFER, LANDLOCK_TRUNCATE: _TRUNCATE}
_WRITES_TO_FILE = _WRITE_FILE | _TRUNCATE

_IPC_RMID = 0
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


def _system_call(number: int, *arguments: int | bytes | None, stage: str) -> int:
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *passed), stage)


def prepared_clone(flags: int) -> Callable[[], int]:
    """A fork into new namespaces, to be made by calling it: 0 in the child, its pid in the caller. Raises
    OSError. The process must have one thread."""
    number = _NUMBERS[os.uname().machine]["clone"]
    arguments = ctypes.c_long(number), ctypes.c_long(flags | _SIGCHLD), None, None, None, None
    call: Callable[[], int] = functools.partial(_libc.syscall, *arguments)

    def clone() -> int:
        pid = call()
        return pid if pid >= 0 else _checked(pid, "clone")

    return clone


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root of this mount namespace and show the former one at `old_root`."""
    number = _NUMBERS[os.uname().machine]["pivot_root"]
    _system_call(number, os.fsencode(new_root), os.fsencode(old_root), stage="pivot_root")


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
    for capability in range(_LAST_POSSIBLE_CAPABILITY + 1):
        try:
            bounding = prctl(PR_CAPBSET_READ, capability)
        except OSError:  # beyond the last one of this kernel
            break
        if bounding:
            prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    retain_capabilities()


def retain_capabilities(*capabilities: int) -> None:
    """Reduce the effective and permitted sets to these, each below 32, and empty the inheritable set."""
    kept = sum(1 << capability for capability in capabilities)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)), "capset")


class Filter:
    """A seccomp BPF program (8 bytes an instruction), laid out as the kernel reads it."""

    def __init__(self, program: bytes) -> None:
        self._program = ctypes.create_string_buffer(program, len(program))
        start = ctypes.addressof(self._program)
        self._header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, start))
        self._address = ctypes.addressof(self._header)

    def install(self) -> None:
        """Put it in force. Needs no_new_privs."""
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self._address)


def bring_loopback_up() -> None:
    """Set the lo interface of this network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        ioctl(anything, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _remove_shm(number: int) -> None:
    _checked(_libc.shmctl(number, _IPC_RMID, None), "shmctl")


def _remove_msg(number: int) -> None:
    _checked(_libc.msgctl(number, _IPC_RMID, None), "msgctl")


def _remove_sem(number: int) -> None:
    _checked(_libc.semctl(number, 0, _IPC_RMID), "semctl")


REMOVE_IPC = {"shm": _remove_shm, "msg": _remove_msg, "sem": _remove_sem}
"""How to remove a System V object, by its kind as in /proc/sysvipc. Each raises OSError."""


def landlock_abi() -> int:
    """The version of the kernel's Landlock interface; 0 where it has none or it is switched off."""
    try:
        return _system_call(_CREATE_RULESET, None, 0, _VERSION_ASKED, stage="landlock")
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):  # the last is a container's filter
            return 0
        raise


def landlock_create_ruleset(accesses: int) -> int:
    """A close-on-exec descriptor of a Landlock ruleset that withholds these accesses to files."""
    attributes = struct.pack("=Q", accesses)
    return _system_call(_CREATE_RULESET, attributes, len(attributes), 0, stage="landlock_create_ruleset")


def landlock_allow_beneath(ruleset: int, path: str, accesses: int) -> None:
    """Allow `accesses` to `path` and what lies beneath it; to a file, those that a file can have."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            accesses &= _WRITES_TO_FILE
        rule = struct.pack("=Qi", accesses, place)
        _system_call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0, stage=f"landlock_add_rule {path}")
    finally:
        os.close(place)


def landlock_restrict_self(ruleset: int) -> None:
    """Put a ruleset in force for this thread and all it starts. Needs no_new_privs."""
    _system_call(_RESTRICT_SELF, ruleset, 0, stage="landlock_restrict_self")


def restrict_writes(allowed: list[str]) -> None:
    """From now on this process and its children write, make, rename and remove only beneath `allowed`.

    The process must have one thread; it gains no_new_privs. Not covered by Landlock: descriptors that are
    open already, and the mode, owner, times and attributes of a file. Below version 3 of the interface a
    file may still be truncated. Raises OSError: ENOSYS where the kernel has no Landlock, ENOENT where
    something of `allowed` does not exist.
    """
    version = landlock_abi()
    if not version:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "landlock")
    writes = sum(accesses for since, accesses in _WRITES_SINCE.items() if since <= version)
    ruleset = landlock_create_ruleset(writes)
    try:
        for path in allowed:
            landlock_allow_beneath(ruleset, path, writes)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
