"""The system calls a command may not make, as a BPF program assembled here.

A deny list: what a shell, compilers and interpreters use works; what widens the kernel's attack surface or
reaches out of the slot does not. The tests compare both columns of numbers with the kernel's own headers; the
aarch64 filter is interpreted by them, and untested at run time.
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
_AND = 0x54
_RETURN = 0x06

_ALLOW = 0x7FFF_0000
_KILL_PROCESS = 0x8000_0000
_ERRNO = 0x0005_0000

_NUMBER, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

_X32_BIT = 0x4000_0000
_AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_UNIX, _INET, _INET6 = 1, 2, 10  # no other family: AF_VSOCK would reach the hypervisor
_STREAM, _DATAGRAM = 1, 2
_SOCKET_TYPE = 0xF  # the rest are flags
_PROTOCOLS = (0, 6, 17)  # the default, TCP, UDP; to ask for another would load its module into the kernel

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
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "lsm_set_self_attr": (460, 460),
    "listns": (470, 470),
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
    "mq_open": (240, 180),  # queues outlive the processes of a command
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
_EXAMINED = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
}

_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1

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


def _namespaces() -> list[_Instruction]:
    return [(_LOAD, 0, 0, _ARG0), (_ANY_BIT, 0, 1, linux.ALL_NAMESPACES), _refuse(errno.EPERM), _PASS]


def _sockets() -> list[_Instruction]:
    """Any of AF_UNIX; streams and datagrams of the usual protocols of AF_INET and AF_INET6."""
    *protocol_or_refused, _ = _one_of(_ARG2, _PROTOCOLS, errno.EPROTONOSUPPORT, allowed=True)
    load, *kind_or_refused = _one_of(_ARG1, (_STREAM, _DATAGRAM), errno.EPROTONOSUPPORT, allowed=True)
    return [
        (_LOAD, 0, 0, _ARG0),
        (_EQUAL, 0, 1, _UNIX),
        _PASS,
        (_EQUAL, 2, 0, _INET),
        (_EQUAL, 1, 0, _INET6),
        _refuse(errno.EAFNOSUPPORT),
        *protocol_or_refused,  # one of them goes on behind the refusal
        load,
        (_AND, 0, 0, _SOCKET_TYPE),
        *kind_or_refused,
    ]


def _not_pid_1(single: int) -> list[_Instruction]:
    """One process alone, and that not pid 1: a group or a user would hold it too."""
    return [
        (_LOAD, 0, 0, _ARG0),
        (_EQUAL, 1, 0, single),
        _refuse(errno.EPERM),
        (_LOAD, 0, 0, _ARG1),
        (_EQUAL, 0, 1, 1),
        _refuse(errno.EPERM),
        _PASS,
    ]


def program(machine: str, *, unseen_memory: bool) -> bytes:
    """The filter for `machine` (x86_64 or aarch64). `unseen_memory` allows memfd_create and SysV IPC.

    Raises KeyError for another machine.
    """
    arch = _AUDIT_ARCH[machine]
    column = 0 if machine == "x86_64" else 1
    examined: dict[str, list[_Instruction]] = {
        "clone": _namespaces(),
        "clone3": [_refuse(errno.ENOSYS)],
        "ioctl": _one_of(_ARG1, _TERMINAL_INJECTION, errno.EPERM, allowed=False),
        "socket": _sockets(),
        "socketpair": _one_of(_ARG0, (_UNIX,), errno.EAFNOSUPPORT, allowed=True),
        # another process's limits: a CPU limit on pid 1 would end the slot
        "prlimit64": _one_of(_ARG0, (0,), errno.EPERM, allowed=True),
        # pid 1's share of the processors, which checks inherit
        "setpriority": _not_pid_1(_PRIO_PROCESS),
        "ioprio_set": _not_pid_1(_IOPRIO_WHO_PROCESS),
        **{
            name: _one_of(_ARG0, (1,), errno.EPERM, allowed=False)
            for name in ("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity")
        },
    }
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32_BIT),
        _refuse(errno.ENOSYS),
    ]
    for name, block in examined.items():
        code += _when(_EXAMINED[name][column], block)
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
