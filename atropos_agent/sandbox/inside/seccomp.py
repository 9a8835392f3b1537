"""The system calls a command may not make, as a BPF program assembled here.

A deny list: what a shell, compilers and interpreters use works; what widens the kernel's attack surface or
reaches out of the slot does not. The x86_64 numbers are exercised by the tests; the aarch64 ones follow the
kernel's generic table and are untested.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Sequence

from atropos_agent.sandbox.inside import linux

_LOAD = 0x20
_EQUAL = 0x15
_AT_LEAST = 0x35
_ANY_BIT = 0x45
_RETURN = 0x06

_ALLOW = 0x7FFF_0000
_KILL_PROCESS = 0x8000_0000
_ERRNO = 0x0005_0000

_NUMBER, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24

_X32_BIT = 0x4000_0000
_AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6; AF_VSOCK would reach the hypervisor

# name: (x86_64, aarch64); -1 where the architecture has no such call
_REFUSED = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "uselib": (134, -1),
}
# Memory that no process needs to map, so that a watcher of resident sizes cannot see it.
_UNSEEN_MEMORY = {"memfd_create": (319, 279), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190)}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _IOCTL, _PRLIMIT = (
    (56, 220),
    (435, 435),
    (41, 198),
    (53, 199),
    (16, 29),
    (302, 261),
)

_Instruction = tuple[int, int, int, int]


def _refuse(code: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


_PASS: _Instruction = (_RETURN, 0, 0, _ALLOW)


def _when(number: int, block: Sequence[_Instruction]) -> list[_Instruction]:
    """`block` for one system call; it must end in a return."""
    return [(_EQUAL, 0, len(block), number), *block]


def _one_of(offset: int, values: Sequence[int], code: int, *, allowed: bool) -> list[_Instruction]:
    """Allow (or refuse) the call where the low half of an argument is one of `values`."""
    hit, miss = (_PASS, _refuse(code)) if allowed else (_refuse(code), _PASS)
    tests: list[_Instruction] = [
        (_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)
    ]
    return [(_LOAD, 0, 0, offset), *tests, miss, hit]


def program(machine: str, *, unseen_memory: bool) -> bytes:
    """The filter for `machine` (x86_64 or aarch64). `unseen_memory` allows memfd_create and SysV IPC.

    Raises KeyError for another machine.
    """
    arch = _AUDIT_ARCH[machine]
    column = 0 if machine == "x86_64" else 1
    new_namespace = (_LOAD, 0, 0, _ARG0), (_ANY_BIT, 0, 1, linux.ALL_NAMESPACES), _refuse(errno.EPERM), _PASS
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32_BIT),
        _refuse(errno.ENOSYS),
        *_when(_CLONE[column], new_namespace),
        *_when(_CLONE3[column], [_refuse(errno.ENOSYS)]),
        *_when(_IOCTL[column], _one_of(_ARG1, _TERMINAL_INJECTION, errno.EPERM, allowed=False)),
        *_when(_SOCKET[column], _one_of(_ARG0, _FAMILIES, errno.EAFNOSUPPORT, allowed=True)),
        *_when(_SOCKETPAIR[column], _one_of(_ARG0, _FAMILIES, errno.EAFNOSUPPORT, allowed=True)),
        # another process's limits: a CPU limit on pid 1 would end the slot
        *_when(_PRLIMIT[column], _one_of(_ARG0, (0,), errno.EPERM, allowed=True)),
    ]
    for numbers in _REFUSED.values():
        if numbers[column] >= 0:
            code += _when(numbers[column], [_refuse(errno.EPERM)])
    if not unseen_memory:
        for numbers in _UNSEEN_MEMORY.values():
            code += _when(numbers[column], [_refuse(errno.ENOSYS)])
    return b"".join(struct.pack("HBBI", *instruction) for instruction in [*code, _PASS])


@functools.cache
def prepared(*, unseen_memory: bool) -> linux.Filter:
    """The filter for this machine, to be put in force for a process and all it starts."""
    return linux.Filter(program(os.uname().machine, unseen_memory=unseen_memory))
