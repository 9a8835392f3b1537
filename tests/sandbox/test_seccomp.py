"""The filter, run by a small interpreter of classic BPF: also for the architecture we cannot run."""

import errno
import re
import struct
from pathlib import Path

import pytest

from atropos_agent.sandbox.inside import linux, seccomp

ALLOW = 0x7FFF_0000
KILL = 0x8000_0000
ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
NUMBERS = {
    "x86_64": {
        "read": 0,
        "clone": 56,
        "clone3": 435,
        "socket": 41,
        "socketpair": 53,
        "ioctl": 16,
        "ptrace": 101,
        "prlimit": 302,
    },
    "aarch64": {
        "read": 63,
        "clone": 220,
        "clone3": 435,
        "socket": 198,
        "socketpair": 199,
        "ioctl": 29,
        "ptrace": 117,
        "prlimit": 261,
    },
}


def verdict(machine, number, *arguments, arch=None, unseen_memory=True):
    program = seccomp.program(machine, unseen_memory=unseen_memory)
    padded = [argument & 2**64 - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("IIQ6Q", number, arch or ARCH[machine], 0, *padded)
    accumulator = at = 0
    while True:
        code, jump_true, jump_false, value = struct.unpack_from("HBBI", program, at * 8)
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("I", data, value)
        elif code == 0x54:
            accumulator &= value
        else:
            hit = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[
                code
            ]
            at += jump_true if hit else jump_false


def refused(code):
    return 0x0005_0000 | code


@pytest.fixture(params=NUMBERS)
def machine(request):
    return request.param


def test_ordinary_calls_pass(machine):
    numbers = NUMBERS[machine]
    assert verdict(machine, numbers["read"]) == ALLOW
    assert verdict(machine, numbers["clone"], 17) == ALLOW
    assert verdict(machine, numbers["ioctl"], 0, 0x5401) == ALLOW
    assert verdict(machine, numbers["prlimit"], 0) == ALLOW


@pytest.mark.parametrize("namespace", [1 << bit for bit in range(32) if linux.ALL_NAMESPACES >> bit & 1])
def test_no_new_namespace_whatever_else_is_asked(machine, namespace):
    number = NUMBERS[machine]["clone"]
    assert verdict(machine, number, namespace | 17) == refused(errno.EPERM)
    assert verdict(machine, number, 1 << 40 | namespace) == refused(errno.EPERM)
    assert verdict(machine, NUMBERS[machine]["clone3"]) == refused(errno.ENOSYS)


@pytest.mark.parametrize("family", range(50))
def test_only_three_socket_families(machine, family):
    expected = ALLOW if family in (1, 2, 10) else refused(errno.EAFNOSUPPORT)
    assert verdict(machine, NUMBERS[machine]["socket"], family, 1) == expected
    assert verdict(machine, NUMBERS[machine]["socket"], family | 1 << 32, 1) == expected
    pair = ALLOW if family == 1 else refused(errno.EAFNOSUPPORT)
    assert verdict(machine, NUMBERS[machine]["socketpair"], family, 1) == pair


@pytest.mark.parametrize("family", [2, 10])
def test_only_protocols_that_are_in_the_kernel_already(machine, family):
    number, flags = NUMBERS[machine]["socket"], 0o2000000 | 0o4000
    for kind in range(16):
        for protocol in (0, 1, 6, 17, 33, 58, 132, 136, 262):
            usual = kind in (1, 2) and protocol in (0, 6, 17)
            expected = ALLOW if usual else refused(errno.EPROTONOSUPPORT)
            assert verdict(machine, number, family, kind, protocol) == expected
            assert verdict(machine, number, family, kind | flags, protocol | 1 << 32) == expected


@pytest.mark.parametrize(("kind", "protocol"), [(1, 0), (2, 0), (5, 0)])
def test_every_kind_of_local_socket(machine, kind, protocol):
    assert verdict(machine, NUMBERS[machine]["socket"], 1, kind, protocol) == ALLOW


def test_terminal_injection_and_tracing_and_foreign_limits_are_refused(machine):
    numbers = NUMBERS[machine]
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert verdict(machine, numbers["ioctl"], 0, request) == refused(errno.EPERM)
    assert verdict(machine, numbers["ptrace"]) == refused(errno.EPERM)
    assert verdict(machine, numbers["prlimit"], 1) == refused(errno.EPERM)


def test_another_architecture_is_killed(machine):
    assert verdict(machine, 0, arch=0x4000_0003) == KILL


def test_x32_calls_do_not_exist():
    assert verdict("x86_64", 0x4000_0000 | 101) == refused(errno.ENOSYS)


def test_unmapped_memory_exists_only_where_it_is_counted():
    assert verdict("x86_64", 319) == ALLOW
    assert verdict("x86_64", 319, unseen_memory=False) == refused(errno.ENOSYS)
    assert verdict("x86_64", 29, unseen_memory=False) == refused(errno.ENOSYS)


HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
UNIFIED = 424  # from here on a call has one number everywhere
TABLE = {**seccomp._REFUSED, **seccomp._UNSEEN_MEMORY, **seccomp._EXAMINED}


@pytest.fixture
def header(machine):
    """name: number, as the kernel's own header has them."""
    path = Path(HEADERS[machine])
    if not path.exists():
        pytest.skip(f"{path} is not there: install linux-libc-dev")
    lines = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", path.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in lines if name != "syscalls"}


@pytest.mark.integration
def test_every_number_is_the_kernels(machine, header):
    assert header["openat"] == {"x86_64": 257, "aarch64": 56}[machine]
    column = list(HEADERS).index(machine)
    wrong = {
        name: (numbers[column], header.get(name))
        for name, numbers in TABLE.items()
        if numbers[column] != header.get(name, -1) and numbers[column] <= max(header.values())
    }
    assert not wrong


def test_new_calls_have_one_number_everywhere():
    newer = {name: pair for name, pair in TABLE.items() if max(pair) >= UNIFIED}
    assert len(newer) > 10
    assert all(x86_64 == aarch64 for x86_64, aarch64 in newer.values())


def test_no_call_is_listed_twice():
    for column in (0, 1):
        numbers = [pair[column] for pair in TABLE.values() if pair[column] >= 0]
        assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("name", seccomp._REFUSED)
def test_each_listed_call_is_refused(machine, name):
    number = seccomp._REFUSED[name][list(HEADERS).index(machine)]
    if number >= 0:
        assert verdict(machine, number) == refused(errno.EPERM)
