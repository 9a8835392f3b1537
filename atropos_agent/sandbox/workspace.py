"""The file methods of all our sandboxes: requests to the workspace's own process, replies checked."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Mapping

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox.inside import frames
from atropos_agent.sandbox.protocol import WORKSPACE, FileEntry
from atropos_agent.sandbox.tar import pack, unpack


class WorkspaceFiles(ABC):
    """The file methods of the `Sandbox` protocol over one way to ask."""

    @abstractmethod
    async def _ask(self, meta: dict[str, object], payload: bytes) -> frames.Frame:
        """The answer to one file request. Raises SandboxLost."""

    @abstractmethod
    def _distrust(self, reason: str) -> None:
        """Called where an answer breaks the protocol."""

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """See `Sandbox.read_file`."""
        frame = await self._request({"op": "read_file", "path": path, "max_bytes": max_bytes}, path=path)
        return frame.payload

    async def write_files(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """See `Sandbox.write_files`."""
        table = [[path, len(data)] for path, data in files.items()]
        await self._request({"op": "write_files", "files": table, "mode": mode}, b"".join(files.values()))

    async def snapshot(
        self, *, max_file_bytes: int = 1 << 20, max_total_bytes: int = 32 << 20
    ) -> dict[str, FileEntry]:
        """See `Sandbox.snapshot`."""
        meta: dict[str, object] = {
            "op": "snapshot",
            "max_file_bytes": max_file_bytes,
            "max_total_bytes": min(max_total_bytes, frames.MAX_PAYLOAD),
        }
        return await self._entries(meta)

    async def list_files(self, path: str = WORKSPACE) -> dict[str, FileEntry]:
        """See `Sandbox.list_files`."""
        return await self._entries({"op": "list", "path": path}, path=path)

    async def restore(self, entries: Mapping[str, FileEntry]) -> None:
        """See `Sandbox.restore`."""
        await self._make(entries, clear=True)

    async def archive(self, *, max_total_bytes: int = 128 << 20) -> bytes:
        """See `Sandbox.archive`."""
        entries = await self.snapshot(max_file_bytes=max_total_bytes, max_total_bytes=max_total_bytes)
        cut = next(
            (
                path
                for path, entry in entries.items()
                if len(entry.data) < entry.size and entry.kind == "file"
            ),
            "",
        )
        if cut:
            raise OSError(
                errno.EFBIG, f"the workspace holds more than max_total_bytes={max_total_bytes}", cut
            )
        return pack(entries)

    async def extract(self, archive: bytes) -> None:
        """See `Sandbox.extract`."""
        await self._make(unpack(archive), clear=False)

    async def _entries(self, meta: dict[str, object], *, path: str = "") -> dict[str, FileEntry]:
        frame = await self._request(meta, path=path)
        try:
            return _entries(frame)
        except frames.FrameError as error:
            raise self._lost(error) from error

    async def _make(self, entries: Mapping[str, FileEntry], *, clear: bool) -> None:
        rows = [
            [path, entry.kind, entry.mode, entry.size, len(entry.data), entry.target, entry.links]
            for path, entry in entries.items()
        ]
        payload = b"".join(entry.data for entry in entries.values())
        await self._request({"op": "restore", "entries": rows, "clear": clear}, payload)

    async def _request(
        self, meta: dict[str, object], payload: bytes = b"", *, path: str = ""
    ) -> frames.Frame:
        frame = await self._ask(meta, payload)
        if "errno" not in frame.meta:
            return frame
        try:
            code, message = frames.integer(frame.meta, "errno"), frames.text(frame.meta, "error")
        except frames.FrameError as error:
            raise self._lost(error) from error
        raise OSError(code, message, *([path] if path else []))

    def _lost(self, error: frames.FrameError) -> SandboxLost:
        self._distrust(str(error))
        return SandboxLost(str(error))


def _entries(frame: frames.Frame) -> dict[str, FileEntry]:
    entries: dict[str, FileEntry] = {}
    start = 0
    for row in frames.sequence(frame.meta, "entries"):
        match row:
            case [str(path), str(kind), int(mode), int(size), int(length), str(target), int(links)] if (
                0 <= length <= len(frame.payload) - start
            ):
                data = frame.payload[start : start + length]
                entries[path] = FileEntry(kind, mode, size, data, target, links)
                start += length
            case _:
                raise frames.FrameError(f"not a file entry: {row!r:.80}")
    return entries
