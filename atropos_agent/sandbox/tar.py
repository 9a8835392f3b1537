"""Workspaces as tar archives. Archives are taken apart here, in memory, and never touch the host's files."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Mapping

from atropos_agent.errors import SandboxError
from atropos_agent.sandbox.protocol import FileEntry

_KINDS = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink"}


def pack(entries: Mapping[str, FileEntry]) -> bytes:
    """An uncompressed tar of a snapshot, without owners and times. Pipes and sockets are left out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in entries.items():
            member = tarfile.TarInfo(path)
            member.mode = entry.mode
            if entry.kind == "file":
                member.size = len(entry.data)
            elif entry.kind == "dir":
                member.type = tarfile.DIRTYPE
            elif entry.kind == "symlink":
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
            else:
                continue
            archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, FileEntry]:
    """What an uncompressed tar holds, parents as they come. Raises SandboxError."""
    entries: dict[str, FileEntry] = {}
    if data[-tarfile.BLOCKSIZE :] != bytes(tarfile.BLOCKSIZE):
        raise SandboxError("not an uncompressed tar archive, or not all of it: its end mark is missing")
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                name = _plain_name(member.name)
                if name:
                    entries[name] = _entry(archive, member, entries)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise SandboxError(f"not an uncompressed tar archive: {error}") from error
    return entries


def _plain_name(name: str) -> str:
    plain = posixpath.normpath(name)
    if plain.startswith(("/", "../")) or plain == ".." or "\0" in plain:
        raise SandboxError(f"tar member {name!r:.200} lies outside of the workspace; names must be relative")
    return "" if plain == "." else plain


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, earlier: Mapping[str, FileEntry]) -> FileEntry:
    mode = member.mode & 0o7777
    if member.isreg():
        file = archive.extractfile(member)
        content = file.read() if file is not None else b""
        return FileEntry("file", mode, member.size, content)
    if member.islnk():
        original = earlier.get(posixpath.normpath(member.linkname))
        if original is not None and original.kind == "file":
            return original
        raise SandboxError(
            f"tar member {member.name!r:.200} is a hard link to no earlier file of the archive"
        )
    kind = _KINDS.get(member.type)
    if kind is None:
        raise SandboxError(
            f"tar member {member.name!r:.200} is a device or a pipe; only files can be written"
        )
    return FileEntry(kind, mode, 0, target=member.linkname if kind == "symlink" else "")
