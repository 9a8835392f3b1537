"""A task: a workspace, a prompt, a reference solution, and what must hold afterwards. Pure data."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from atropos_agent.sandbox.protocol import FileEntry

DIFFICULTIES = (1, 2, 3, 4, 5)
DONE = "Done."


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a reference solution: a shell command, and at most one line of reasoning before it."""

    command: str
    think: str = ""


@runtime_checkable
class Wanted(Protocol):
    """What must be true of one path after the rollout."""

    def holds(self, entry: FileEntry | None) -> bool:
        """Judge what a snapshot shows at the path (None: nothing is there)."""
        ...


@dataclass(frozen=True, slots=True)
class BySize:
    """What must be true of a path, chosen by the size in bytes of the file at `path`."""

    path: str
    choices: Mapping[int, Wanted]


@dataclass(frozen=True, slots=True)
class Draft:
    """A task without its identity: the content of the sandbox, the prompt, and how the result is judged.

    `files` are the regular files at the start (relative path -> bytes), `modes` the permission bits of those
    that are not 0o644, and `directories` the folders that would otherwise not exist. `answer` is the expected
    final answer (None: any final text is accepted); with `answer_is_list` its lines may come in any order.
    `wanted` says which paths must change and how; every other path must stay unchanged, but those of `may_go`
    may be removed. With `nothing_else` only the wanted paths and their folders may be added.
    """

    prompt: str
    files: Mapping[str, bytes]
    solution: tuple[Turn, ...]
    answer: str | None = None
    answer_is_list: bool = False
    wanted: Mapping[str, Wanted | BySize] = field(default_factory=dict[str, Wanted | BySize])
    modes: Mapping[str, int] = field(default_factory=dict[str, int])
    directories: tuple[str, ...] = ()
    may_go: tuple[str, ...] = ()
    nothing_else: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Draft):
    """One item. `id` is "family/difficulty/seed" and rebuilds the same task on any machine."""

    id: str
    family: str
    difficulty: int
    seed: int

    @property
    def final_response(self) -> str:
        """The final turn of the reference solution."""
        return DONE if self.answer is None else self.answer

    @property
    def setup_command(self) -> str:
        """Shell command that completes the workspace once `files` are written; "" if nothing is left."""
        folders = [f"mkdir -p -- {shlex.quote(folder)}" for folder in self.directories]
        modes = [f"chmod {mode:o} -- {shlex.quote(path)}" for path, mode in sorted(self.modes.items())]
        return " && ".join(folders + modes)
