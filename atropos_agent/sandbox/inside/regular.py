"""Regular files, opened so that nothing an agent has put in their place can hold us or lead astray."""

from __future__ import annotations

import errno
import os
import stat

_CHUNK = 1 << 20


def write_all(descriptor: int, data: bytes) -> None:
    """Every byte. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def open_regular(path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of a regular file. O_NONBLOCK keeps a FIFO from holding us."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, mode)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "not a regular file")


def read_up_to(descriptor: int, limit: int) -> bytes:
    """At most `limit` bytes. Raises OSError."""
    parts: list[bytes] = []
    while limit > 0:
        chunk = os.read(descriptor, min(limit, _CHUNK))
        if not chunk:
            break
        parts.append(chunk)
        limit -= len(chunk)
    return b"".join(parts)


def write_regular(path: str, data: bytes, mode: int) -> None:
    """Replace the content of a file, or make it. Raises OSError."""
    descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, 0)
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
