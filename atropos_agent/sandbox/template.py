"""What a workspace starts with: a directory of the host, shown through an overlay or copied.

A native slot of an ordinary user shows the directory itself and keeps changes apart (overlayfs in a user
namespace), at no cost for its size. Elsewhere its content is copied into each workspace: where root started
the trainer, the files' owner does not exist inside, and other backends have no overlay.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from atropos_agent.errors import SandboxError
from atropos_agent.sandbox.inside import frames, trees
from atropos_agent.sandbox.protocol import FileEntry, Sandbox, SandboxSpec


def check_template(spec: SandboxSpec) -> None:
    """Raises SandboxError if the template is not a directory that this process can read."""
    path = Path(spec.template)
    if spec.template and not (path.is_absolute() and path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
        raise SandboxError(
            f"the template {spec.template!r} is not the absolute path of a directory that can be read"
        )


def can_overlay(template: str) -> bool:
    """True where an overlay would show files of which the sandbox's user is the owner."""
    return os.geteuid() != 0 and Path(template).stat().st_uid == os.geteuid()


async def copy_template(sandbox: Sandbox, spec: SandboxSpec) -> None:
    """Copy the template into an empty workspace. Raises SandboxError."""
    entries = await asyncio.to_thread(_content, spec.template)
    try:
        await sandbox.restore(entries)
    except OSError as error:
        raise SandboxError(f"the template {spec.template} does not fit into a workspace: {error}") from error


def _content(template: str) -> dict[str, FileEntry]:
    entries: dict[str, FileEntry] = {}
    limit = frames.MAX_PAYLOAD
    try:
        for row, data in trees.walk(str(Path(template).resolve()), per_file=limit, total=limit):
            entries[row.path] = FileEntry(row.kind, row.mode, row.size, data, row.target, row.links)
    except OSError as error:
        raise SandboxError(f"the template {template} cannot be copied: {error}") from error
    return entries
