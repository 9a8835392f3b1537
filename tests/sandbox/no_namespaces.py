"""Stands for a machine without user namespaces: ours has a quota of none.

`no_namespaces.py ROOT BACKEND` prints what a probe says; `no_namespaces.py -- COMMAND...` runs it there.
"""

import asyncio
import ctypes
import os
import sys
import time
from pathlib import Path

NEW_USER = 0x1000_0000


def main():
    uid = os.getuid()
    assert ctypes.CDLL(None).unshare(NEW_USER) == 0
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    if sys.argv[1] == "--":
        os.execv(sys.argv[2], sys.argv[2:])

    from atropos_agent.errors import SandboxUnavailable
    from atropos_agent.sandbox import probe_backend

    started = time.monotonic()
    try:
        said = str(asyncio.run(probe_backend(sys.argv[2])))
    except SandboxUnavailable as error:
        said = str(error)
    sys.stdout.write(f"{'within two seconds' if time.monotonic() - started < 2 else 'late'}: {said}")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
