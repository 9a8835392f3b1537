"""Reading, writing and editing text files in the rollout's workspace."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from atropos_agent.errors import SandboxLost
from atropos_agent.sandbox.protocol import WORKSPACE, ExecStatus, Sandbox
from atropos_agent.toolset import ToolContext, ToolSchema, failure
from atropos_agent.trajectory import Json, ToolResult
from atropos_tools._base import SandboxTool
from atropos_tools._output import to_text

MAX_FILE_BYTES = 100_000

_NEW_FILE_MODE = 0o644
_LISTED_LINES = 5
_T = TypeVar("_T")
_PATH: Mapping[str, Json] = {"type": "string", "description": f"Relative to {WORKSPACE}, or absolute in it."}


class _RefusedError(Exception):
    """The call cannot be done; the text says why."""


class _FileTool(SandboxTool):
    """What the file tools share: a refusal is an observation."""

    async def _execute_in(
        self, sandbox: Sandbox, arguments: Mapping[str, Json], context: ToolContext
    ) -> ToolResult:
        try:
            output = await self._act(arguments, sandbox)
        except _RefusedError as refusal:
            return failure(str(refusal))
        return ToolResult(success=True, output=output)

    async def _act(self, arguments: Mapping[str, Json], sandbox: Sandbox) -> str:
        raise NotImplementedError


class ReadFile(_FileTool):
    """The text of a file of at most 100,000 bytes; what is not UTF-8 is shown as U+FFFD."""

    _schema = ToolSchema.of(
        name="read_file",
        description="Read a text file.",
        properties={"path": _PATH},
        required=("path",),
        parallel=True,
    )

    async def _act(self, arguments: Mapping[str, Json], sandbox: Sandbox) -> str:
        return to_text(await _read(sandbox, str(arguments["path"])))


class WriteFile(_FileTool):
    """Writes a whole file of at most 100,000 bytes; directories are made, an existing mode is kept."""

    _schema = ToolSchema.of(
        name="write_file",
        description="Create or replace a text file; missing directories are made.",
        properties={"path": _PATH, "content": {"type": "string", "description": "The whole text."}},
        required=("path", "content"),
    )

    async def _act(self, arguments: Mapping[str, Json], sandbox: Sandbox) -> str:
        path = str(arguments["path"])
        size = await _write(sandbox, path, str(arguments["content"]))
        return f"Wrote {size} bytes to {path}"


class EditFile(_FileTool):
    """Replaces one exact text in a UTF-8 file, or each of its places with `replace_all`."""

    _schema = ToolSchema.of(
        name="edit_file",
        description="Replace an exact text in a file; it must occur once, unless replace_all is true.",
        properties={
            "path": _PATH,
            "old_text": {"type": "string", "description": "What is there, with its white space."},
            "new_text": {"type": "string", "description": "What replaces it."},
            "replace_all": {"type": "boolean", "description": "Replace every occurrence (default false)."},
        },
        required=("path", "old_text", "new_text"),
    )

    async def _act(self, arguments: Mapping[str, Json], sandbox: Sandbox) -> str:
        path, old, new = (str(arguments[name]) for name in ("path", "old_text", "new_text"))
        if not old or old == new:
            raise _RefusedError("old_text is empty" if not old else "old_text and new_text are the same")
        try:
            text = (await _read(sandbox, path)).decode()
        except UnicodeDecodeError as error:
            raise _RefusedError(
                f"{path!r} is not UTF-8 text (byte {error.start}); nothing was changed"
            ) from None
        count = text.count(old)
        if count == 0:
            raise _RefusedError(f"old_text is not in {path!r}; {_nearest(text, old)}; nothing was changed")
        if count > 1 and not arguments.get("replace_all"):
            raise _RefusedError(
                f"old_text is {count} times in {path!r} ({_places(text, old)}); "
                "give more of its surroundings or set replace_all; nothing was changed"
            )
        await _write(sandbox, path, text.replace(old, new))
        return f"Replaced {count} occurrence{'s' * (count > 1)} in {path}"


def _places(text: str, old: str) -> str:
    lines: list[int] = []
    at = text.find(old)
    while at >= 0 and len(lines) <= _LISTED_LINES:
        lines.append(text.count("\n", 0, at) + 1)
        at = text.find(old, at + len(old))
    listed = ", ".join(str(line) for line in lines[:_LISTED_LINES])
    return f"lines {listed}{', ...' if len(lines) > _LISTED_LINES else ''}"


def _nearest(text: str, old: str) -> str:
    """What the file has instead of `old`: its first line, up to white space."""
    wanted = next((line.strip() for line in old.splitlines() if line.strip()), "")
    for number, line in enumerate(text.splitlines(), 1):
        if wanted and wanted in line:
            return f"its first line is in line {number}, {line[:120]!r}: compare white space and what follows"
    return "read the file again: no line of it holds the first line of old_text"


async def _read(sandbox: Sandbox, path: str) -> bytes:
    return await _attempt("read", path, sandbox.read_file(path, max_bytes=MAX_FILE_BYTES))


async def _write(sandbox: Sandbox, path: str, text: str) -> int:
    data = text.encode()
    if len(data) > MAX_FILE_BYTES:
        raise _RefusedError(
            f"cannot write {path!r}: {len(data)} bytes, at most {MAX_FILE_BYTES} are possible"
        )
    mode = await _mode(sandbox, path)
    await _attempt("write", path, sandbox.write_files({path: data}, mode=mode))
    return len(data)


async def _mode(sandbox: Sandbox, path: str) -> int:
    """The permissions of an existing file, so that a script stays executable."""
    if "\0" in path:
        return _NEW_FILE_MODE
    result = await sandbox.exec(f"stat -L -c %a -- {shlex.quote(path)}")
    if result.status is ExecStatus.SANDBOX_LOST:
        raise SandboxLost("the sandbox died while a file was looked up in it")
    known = result.status is ExecStatus.OK and result.stdout.strip().isdigit()
    return int(result.stdout, 8) & 0o777 if known else _NEW_FILE_MODE


async def _attempt(act: str, path: str, operation: Awaitable[_T]) -> _T:
    """The operation's value. Raises _RefusedError in the model's terms; a lost sandbox passes."""
    try:
        return await operation
    except SandboxLost:
        raise
    except OSError as error:
        raise _RefusedError(f"cannot {act} {path!r}: {_reason(error, path)}") from None


def _reason(error: OSError, path: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a directory"
    reason = (error.strerror or str(error)).removeprefix(f"{path}: ")
    if isinstance(error, PermissionError):
        return f"{reason} (only {WORKSPACE} can be reached)"
    too_large = error.errno == errno.EFBIG
    return f"{reason}; at most {MAX_FILE_BYTES} bytes are possible" if too_large else reason
