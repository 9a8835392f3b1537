"""The filter, run by a small interpreter of classic BPF: also for the architecture we cannot run."""

import errno
import struct

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
        "ioctl": 16,
        "ptrace": 101,
        "prlimit": 302,
    },
    "aarch64": {
        "read": 63,
        "clone": 220,
        "clone3": 435,
        "socket": 198,
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
    assert verdict(machine, NUMBERS[machine]["socket"], family) == expected
    assert verdict(machine, NUMBERS[machine]["socket"], family | 1 << 32) == expected


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
