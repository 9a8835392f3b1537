"""Runs inside a sandbox: tries to get out, and prints what each attempt met, as JSON."""

# Raw system interfaces are the point, and the answer goes to stdout.
# ruff: noqa: PTH103, PTH108, PTH123, PTH207, PTH208, T201

import ctypes
import errno
import glob
import json
import os
import resource
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
NEW_USER = 0x1000_0000
PTRACE_SEIZE = 0x4206


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
    """Into a terminal of our own, which must be our controlling one."""
    import fcntl
    import pty
    import termios

    os.setsid()
    _, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    fcntl.ioctl(terminal, 0x5412, b"x")


def touch(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.unlink(path)


def make_device(path):
    os.mknod(path, 0o60600, os.makedev(254, 0))
    os.unlink(path)


def signal_process(pid):
    os.kill(pid, 0)


def mount_something():
    os.makedirs("mounted", exist_ok=True)
    system_call(165, b"none", b"mounted", b"tmpfs", 0, 0)
    system_call(166, b"mounted", 2)


def unmount(path):
    os.makedirs("unmounted", exist_ok=True)
    libc.mount(b"none", b"unmounted", b"tmpfs", 0, None)
    system_call(166, path, 2)


def see_strangers(own):
    """Processes that are neither pid 1 nor of our own session."""
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    strangers = [pid for pid in found if pid != 1 and session_of(pid) not in (own, None)]
    if not strangers:
        raise ProcessLookupError(errno.ESRCH, "nobody else is there")


def session_of(pid):
    try:
        return os.getsid(pid)
    except OSError:
        return None


def attempts(target):
    victim = target["victim"]
    path_of_victim = f"/proc/{victim}"
    return {
        "AF_VSOCK": lambda: open_socket(40),
        "AF_NETLINK": lambda: open_socket(16, socket.SOCK_RAW),
        "AF_PACKET": lambda: open_socket(17, socket.SOCK_RAW),
        "AF_ALG": lambda: open_socket(38, socket.SOCK_SEQPACKET),
        "host TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", target["port"])),
        "host abstract socket": lambda: connect(socket.AF_UNIX, "\0" + target["abstract"]),
        "host path socket": lambda: connect(socket.AF_UNIX, target["path_socket"]),
        "host file": lambda: open(target["file"]).close(),
        "file of host's home": lambda: open(target["home_file"]).close(),
        "file of host's root": lambda: open(target["root_file"]).close(),
        "host process": lambda: signal_process(target["pid"]),
        "strangers in /proc": lambda: see_strangers(os.getsid(0)),
        "secret in environ": lambda: find_secret(target["secret"]),
        "core_pattern": lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_RDWR)),
        "nested userns by unshare": lambda: system_call(272, NEW_USER),
        "nested userns by clone": clone_user_namespace,
        "userfaultfd": lambda: system_call(323, 1),
        "keyctl": lambda: system_call(250, 0, -3, 0),
        "io_uring": lambda: system_call(425, 1, bytes(120)),
        "memory of a process": lambda: open(f"{path_of_victim}/mem", "rb+").close(),
        "environ of a process": lambda: open(f"{path_of_victim}/environ", "rb").read(),
        "descriptors of a process": lambda: os.listdir(f"{path_of_victim}/fd"),
        "root of a process": lambda: os.listdir(f"{path_of_victim}/root"),
        "ptrace": lambda: system_call(101, PTRACE_SEIZE, victim, 0, 0),
        "process_vm_readv": lambda: system_call(310, victim, 0, 0, 0, 0, 0),
        "pidfd_getfd": lambda: system_call(438, os.pidfd_open(victim), 0, 0),
        "limit a process": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE),
        "mount": mount_something,
        "umount": lambda: unmount(b"unmounted" if target["local"] else b"/proc"),
        "pivot_root": lambda: system_call(155, b"/tmp", b"/tmp"),
        "chroot": lambda: os.chroot("/tmp"),
        "setns": lambda: system_call(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0),
        "bpf": lambda: system_call(321, 0, struct.pack("=IIII", 2, 4, 4, 1) + bytes(48), 64),
        "perf": lambda: system_call(298, struct.pack("=IIQ", 1, 64, 0) + bytes(112), 0, -1, -1, 0),
        "TIOCSTI": inject_input,
        "write /usr": lambda: touch("/usr/atropos-probe"),
        "write /etc": lambda: touch("/etc/atropos-probe"),
        "write /dev": lambda: touch("/dev/atropos-probe"),
        "write /": lambda: touch("/atropos-probe"),
        "write /var/tmp": lambda: touch("/var/tmp/atropos-probe"),
        "read /etc/shadow": lambda: open("/etc/shadow").close(),
        "list /root": lambda: os.listdir("/root"),
        "list /home": lambda: os.listdir("/home"),
        "list /var": lambda: os.listdir("/var/lib"),
        "make device": lambda: make_device("/tmp/atropos-disk"),
        "own loopback": lambda: own_loopback(),
    }


def own_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect(socket.AF_INET, server.getsockname())


def outcome(attempt):
    """What it met, in a process of its own: what one attempt changes must not help or hinder the next."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            attempt()
            os.write(writer, b"GOT THROUGH")
        except OSError as error:
            os.write(writer, errno.errorcode.get(error.errno or 0, str(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        return answer.read().decode() or "died"


if __name__ == "__main__":
    table = attempts(json.loads(sys.argv[1]))
    print(json.dumps({name: outcome(attempt) for name, attempt in table.items()}))
