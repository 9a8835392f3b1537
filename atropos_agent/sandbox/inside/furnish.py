"""What the namespaces of a native slot are given before its pid 1 confines itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from atropos_agent.sandbox.inside import linux, rootfs

_LONGEST_TEXT = 4096


def furnish(
    outer_ids: tuple[int, int],
    *,
    workspace_bytes: int,
    workspace_inodes: int,
    binds: list[tuple[str, str]],
    template: str,
) -> None:
    """Ids, a host name, a loopback interface and the file tree, for this process as pid 1.

    Raises OSError whose filename names the stage, RuntimeError where there is no errno.
    """

    def work() -> None:
        _map_ids(*outer_ids)
        socket.sethostname("sandbox")
        linux.bring_loopback_up()
        rootfs.build(
            workspace_bytes=workspace_bytes, workspace_inodes=workspace_inodes, binds=binds, template=template
        )

    _in_child(work)
    # The saved ids are still those that the zygote goes back to.
    os.setresgid(*[rootfs.USER_ID] * 3)
    os.setresuid(*[rootfs.USER_ID] * 3)


def _in_child(work: Callable[[], None]) -> None:
    """Do what concerns the namespaces alone in a fork: the pages it writes to end with it.

    Every line of Python writes to pages, if only the reference counts there, and so stops sharing them.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except OSError as error:
            os.write(writer, f"{error.errno or 0} {error.filename or error}".encode()[:_LONGEST_TEXT])
        except Exception as error:
            os.write(writer, f"0 {type(error).__name__}: {error}".encode()[:_LONGEST_TEXT])
        finally:
            os._exit(1)
    os.close(writer)
    report = os.read(reader, _LONGEST_TEXT).decode(errors="replace")
    os.close(reader)
    if os.waitpid(pid, 0)[1]:
        number, _, stage = (report or "0 killed").partition(" ")
        if number == "0":
            raise RuntimeError(f"furnishing the slot: {stage}")
        raise OSError(int(number), os.strerror(int(number)), stage)


def _map_ids(uid: int, gid: int) -> None:
    """One user and one group exist inside: the sandbox's, which are `uid` and `gid` outside."""
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{rootfs.USER_ID} {uid} 1"),
        ("gid_map", f"{rootfs.USER_ID} {gid} 1"),
    ):
        rootfs.write_file(f"/proc/self/{name}", line)
