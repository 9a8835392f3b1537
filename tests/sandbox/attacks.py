"""Runs inside a sandbox: tries to get out, and prints what each attempt met, as JSON."""

# Raw system interfaces are the point, and the answer goes to stdout.
# ruff: noqa: PTH123, PTH207, PTH208, T201

import ctypes
import errno
import glob
import json
import os
import resource
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
NEW_USER = 0x1000_0000


def system_call(number, *arguments):
    padded = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    if libc.syscall(ctypes.c_long(number), *padded) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_socket(family, kind=socket.SOCK_STREAM):
    socket.socket(family, kind).close()


def connect(family, address):
    with socket.socket(family) as link:
        link.settimeout(1)
        link.connect(address)


def clone_user_namespace():
    pid = libc.syscall(ctypes.c_long(56), ctypes.c_long(NEW_USER | 17), None, None, None, None)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.waitpid(pid, 0)


def find_secret(secret):
    for path in glob.glob("/proc/[0-9]*/environ"):
        if int(path.split("/")[2]) != os.getpid():
            try:
                with open(path, "rb") as file:
                    if secret.encode() in file.read():
                        return
            except OSError:
                continue
    raise FileNotFoundError(errno.ENOENT, "nobody has it")


def inject_input():
    import fcntl

    fcntl.ioctl(0, 0x5412, b"x")


def touch(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def see_strangers(pid):
    os.kill(pid, 0)


def attempts(target):
    return {
        "AF_VSOCK": lambda: open_socket(40),
        "AF_NETLINK": lambda: open_socket(16, socket.SOCK_RAW),
        "AF_PACKET": lambda: open_socket(17, socket.SOCK_RAW),
        "AF_ALG": lambda: open_socket(38, socket.SOCK_SEQPACKET),
        "host TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", target["port"])),
        "host abstract socket": lambda: connect(socket.AF_UNIX, "\0" + target["abstract"]),
        "host path socket": lambda: connect(socket.AF_UNIX, target["path_socket"]),
        "host file": lambda: open(target["file"]).close(),
        "host process": lambda: see_strangers(target["pid"]),
        "secret in environ": lambda: find_secret(target["secret"]),
        "own environ": lambda: os.environ[target["secret_name"]],
        "core_pattern": lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_RDWR)),
        "nested userns by unshare": lambda: system_call(272, NEW_USER),
        "nested userns by clone": clone_user_namespace,
        "userfaultfd": lambda: system_call(323, 1),
        "keyctl": lambda: system_call(250, 0, -3, 0),
        "io_uring": lambda: system_call(425, 1, bytes(120)),
        "memory of pid 1": lambda: open("/proc/1/mem", "rb+").close(),
        "environ of pid 1": lambda: open("/proc/1/environ", "rb").read(),
        "descriptors of pid 1": lambda: os.listdir("/proc/1/fd"),
        "root of pid 1": lambda: os.listdir("/proc/1/root"),
        "ptrace attach": lambda: system_call(101, 16, 1, 0, 0),
        "process_vm_readv": lambda: system_call(310, 1, 0, 0, 0, 0, 0),
        "pidfd_getfd": lambda: system_call(438, os.pidfd_open(1), 3, 0),
        "limit pid 1": lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)),
        "mount": lambda: system_call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
        "umount": lambda: system_call(166, b"/proc", 2),
        "pivot_root": lambda: system_call(155, b"/tmp", b"/tmp"),
        "chroot": lambda: os.chroot("/tmp"),
        "setns": lambda: system_call(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0),
        "bpf": lambda: system_call(321, 0, bytes(64), 64),
        "perf": lambda: system_call(298, bytes(128), 0, -1, -1, 0),
        "TIOCSTI": inject_input,
        "write /usr": lambda: touch("/usr/atropos-probe"),
        "write /etc": lambda: touch("/etc/atropos-probe"),
        "write /dev": lambda: touch("/dev/atropos-probe"),
        "write /": lambda: touch("/atropos-probe"),
        "write /var/tmp": lambda: touch("/var/tmp/atropos-probe"),
        "read /etc/shadow": lambda: open("/etc/shadow").close(),
        "list /root": lambda: os.listdir("/root"),
        "list /home": lambda: os.listdir("/home"),
        "make device": lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0)),
        "own loopback": lambda: own_loopback(),
    }


def own_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect(socket.AF_INET, server.getsockname())


def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except KeyError:
        return "absent"
    return "GOT THROUGH"


if __name__ == "__main__":
    target = json.loads(sys.argv[1])
    chosen = sys.argv[2:]
    table = attempts(target)
    print(json.dumps({name: outcome(table[name]) for name in chosen or table}))
