"""The run directory: the one log of a run, append-only and safe against being killed at any byte.

    run.yaml            what the run is: resolved config, versions, seeds, identity; never a key
    groups.jsonl        one line per finished group, the last word on it
    pending/            finished rollouts of unfinished groups, one file per group
    metrics.jsonl       one line per report of progress
    flight.jsonl        what stood still, when and why, and how it ended; only where something did
    lock                held by the one writer
    logprob_check.json  how far recorded logprobs are from those of the weights, where that was checked

A line is appended, flushed and fsynced before a call returns. A group's pending file is deleted only
after its line is safe; a crash between the two leaves a pending file that the next `open` deletes. What a
crash tears off the end of a file is cut off by the next `open` and listed in `repairs`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import yaml

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.record.codec import rollout_from_json, rollout_to_json
from atropos_agent.record.durable import append_line, cut_torn_end, read_lines, sync_directory, write_whole
from atropos_agent.record.jsonl import encode_line
from atropos_agent.record.redact import REDACTED, redacted
from atropos_agent.record.schema import SCHEMA_VERSION
from atropos_agent.trajectory import Json, Rollout, RolloutGroup, ScoredDataGroup

logger: logging.Logger = logging.getLogger(__name__)

GROUPS = "groups.jsonl"
METRICS = "metrics.jsonl"
MANIFEST = "run.yaml"
PENDING = "pending"
FLIGHT = "flight.jsonl"
LOCK = "lock"
LOGPROB_CHECK = "logprob_check.json"
LOCK_WAIT_S = 1.0
PENDING_LOCKS = 64

GroupKey = tuple[str, int]

_OURS = frozenset({GROUPS, METRICS, PENDING, FLIGHT, LOCK, f".{MANIFEST}.new"})
_NO_SPACE = "free some space, then resume the run: what it holds is intact"
_NO_RIGHT = "choose a directory that you can write to"
_NO_FOLDER = "choose another path: something that is no directory is in the way"
_NEXT_ACTS = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: _NO_SPACE,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
}


@dataclass(frozen=True, slots=True)
class Repair:
    """What a crash left at the end of a file and was cut off: `size` bytes of an unfinished line."""

    file: str
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class GroupRecord:
    """One line of `groups.jsonl`. `group` is None where there was nothing to train on; `dropped` says why a
    trainer shall not get it."""

    item_id: str
    repetition: int
    group: ScoredDataGroup | None
    rollouts: tuple[Rollout, ...]
    dropped: str | None = None


class RunDir:
    """One run's directory, held by one writer. Methods block, and may be called from any thread.

    Made by `create` or `open`; usable as a context manager. Every write that fails raises RunDirectoryError
    with path, cause and next act, and leaves earlier lines as they were.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Json], lock_fd: int) -> None:
        self.path = path
        self.manifest = manifest
        self.finished: set[GroupKey] = set()
        self.repairs: tuple[Repair, ...] = ()
        self._lock_fd = lock_fd
        self._groups_lock = threading.Lock()
        self._metrics_lock = threading.Lock()
        self._pending_locks = tuple(threading.Lock() for _ in range(PENDING_LOCKS))

    @classmethod
    def create(cls, path: Path | str, manifest: Mapping[str, Json]) -> Self:
        """A new run at `path`, which is made if it is missing and must be empty otherwise.

        `manifest["identity"]` holds what must stay the same for a resume: items, seed, group size, policy.
        """
        path = Path(path)
        with _named(path, "cannot be created"):
            path.mkdir(parents=True, exist_ok=True)
            _require_unused(path)
        fd = _lock(path)
        try:
            with _named(path, "cannot be created"):
                _require_unused(path)
                (path / PENDING).mkdir(exist_ok=True)
                for name in (GROUPS, METRICS):
                    (path / name).touch()
                stored: dict[str, Json] = {"schema": SCHEMA_VERSION, **redacted(manifest)}
                write_whole(path / MANIFEST, yaml.safe_dump(stored, sort_keys=False, allow_unicode=True))
                sync_directory(path.parent)
            return cls(path, stored, fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: Path | str, manifest: Mapping[str, Json] | None = None) -> Self:
        """An existing run at `path`, to be continued: torn ends are cut off, finished groups are known.

        Raises RunDirectoryError where `path` is no run, belongs to a newer schema, is held by another
        process, or was made from another `manifest["identity"]` than the one given.
        """
        path = Path(path)
        stored = read_manifest(path)
        if manifest is not None:
            _require_identity(path, stored, manifest)
        fd = _lock(path)
        try:
            run = cls(path, stored, fd)
            with _named(path, "cannot be continued"):
                run._recover()
            return run
        except BaseException:
            os.close(fd)
            raise

    def _recover(self) -> None:
        (self.path / PENDING).mkdir(exist_ok=True)
        pending = sorted((self.path / PENDING).glob("*.jsonl"))
        logs = [self.path / GROUPS, self.path / METRICS, *pending]
        cut = {log.relative_to(self.path).as_posix(): cut_torn_end(log) for log in logs}
        self.repairs = tuple(Repair(file, size) for file, size in cut.items() if size)
        for repair in self.repairs:
            logger.warning("%s: cut off an unfinished line of %d bytes", self.path / repair.file, repair.size)
        if (self.path / GROUPS).exists():
            self.finished = {_key_of(line) for line in _lines(self.path / GROUPS)}
        for file in pending:
            first = next(_lines(file), None)
            if first is None or _key_of(first) in self.finished:
                file.unlink()

    def pending(self, item_id: str, repetition: int) -> list[Rollout]:
        """The finished rollouts of an unfinished group, in the order they were added, once each."""
        file = self._pending_file(item_id, repetition)
        with _named(file, "cannot be read"):
            found = _rollout_records(file) if file.exists() else []
        rollouts = map(rollout_from_json, found)
        return list({rollout.id: rollout for rollout in rollouts}.values())

    def add_rollout(self, item_id: str, repetition: int, rollout: Rollout) -> None:
        """Keep a finished rollout of a group that is not finished yet."""
        line = encode_line({**_head(item_id, repetition), "rollout": rollout_to_json(rollout)})
        file = self._pending_file(item_id, repetition)
        with self._pending_lock(item_id, repetition), _named(file, "cannot be written"):
            self._require_unfinished(item_id, repetition)
            append_line(file, line)

    def add_group(
        self, group: RolloutGroup, scored: ScoredDataGroup | None, dropped: str | None = None
    ) -> None:
        """Record a finished group, once and for all; then its pending rollouts are deleted."""
        line = encode_line(
            {
                **_head(group.item_id, group.repetition),
                "group": cast("Mapping[str, Json] | None", scored),
                "rollouts": [rollout_to_json(rollout) for rollout in group.rollouts],
                "dropped": dropped,
            }
        )
        with self._pending_lock(group.item_id, group.repetition):
            file = self.path / GROUPS
            with self._groups_lock, _named(file, "cannot be written"):
                self._require_unfinished(group.item_id, group.repetition)
                append_line(file, line)
                self.finished.add((group.item_id, group.repetition))
            file = self._pending_file(group.item_id, group.repetition)
            with _named(file, "cannot be deleted"):
                file.unlink(missing_ok=True)

    def add_metrics(self, metrics: Mapping[str, Json]) -> None:
        """Append one line of progress, with the time it was written."""
        line = encode_line({"schema": SCHEMA_VERSION, "time": time.time(), **metrics})
        file = self.path / METRICS
        with self._metrics_lock, _named(file, "cannot be written"):
            append_line(file, line)

    def close(self) -> None:
        """Give the directory free for another writer. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a forked child that inherited the descriptor must not keep it
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_unfinished(self, item_id: str, repetition: int) -> None:
        if (item_id, repetition) in self.finished:
            raise RecordError(f"item {item_id!r}, repetition {repetition} is already recorded in {self.path}")

    def _pending_lock(self, item_id: str, repetition: int) -> threading.Lock:
        return self._pending_locks[hash((item_id, repetition)) % PENDING_LOCKS]

    def _pending_file(self, item_id: str, repetition: int) -> Path:
        readable = re.sub(r"[^A-Za-z0-9_-]+", "_", item_id)[:40]
        digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.path / PENDING / f"{readable}.{digest}.{repetition}.jsonl"


def read_manifest(path: Path | str) -> dict[str, Json]:
    """What `run.yaml` holds. Raises RunDirectoryError where `path` is no run or of a newer schema."""
    file = Path(path) / MANIFEST
    try:
        manifest = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path} is no run: it has no {MANIFEST}; start a new run there") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunDirectoryError(f"{file} cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise RunDirectoryError(f"{file} does not hold a mapping; it was not written by a run")
    _require_schema(manifest, file)
    return manifest


def read_groups(path: Path | str) -> Iterator[GroupRecord]:
    """The groups of the run at `path`, in the order they finished, one in memory at a time.

    A line that is still being written is left out. Raises RunDirectoryError.
    """
    file = Path(path) / GROUPS
    with _named(file, "cannot be read"):
        for line in _lines(file):
            item_id, repetition = _key_of(line)
            yield GroupRecord(
                item_id=item_id,
                repetition=repetition,
                group=cast("ScoredDataGroup | None", line["group"]),
                rollouts=tuple(map(rollout_from_json, cast("list[Mapping[str, Json]]", line["rollouts"]))),
                dropped=cast("str | None", line["dropped"]),
            )


def _rollout_records(file: Path) -> list[Mapping[str, Json]]:
    return [cast("Mapping[str, Json]", line["rollout"]) for line in _lines(file)]


def _head(item_id: str, repetition: int) -> dict[str, Json]:
    return {"schema": SCHEMA_VERSION, "item_id": item_id, "repetition": repetition}


def _key_of(line: Mapping[str, Json]) -> GroupKey:
    item_id, repetition = line.get("item_id"), line.get("repetition")
    if not isinstance(item_id, str) or not isinstance(repetition, int):
        raise RecordError("a line has no `item_id` and `repetition`")
    return item_id, repetition


def _lines(file: Path) -> Iterator[dict[str, Json]]:
    try:
        for line in read_lines(file):
            _require_schema(line, file)
            yield line
    except RunDirectoryError:
        raise
    except RecordError as error:
        raise RunDirectoryError(f"{file}, {error}; restore the file or start a new run") from error


def _require_schema(record: Mapping[str, Json], file: Path) -> None:
    version = record.get("schema")
    if not isinstance(version, int):
        raise RunDirectoryError(f"{file} has no schema version; it was not written by a run")
    if version > SCHEMA_VERSION:
        raise RunDirectoryError(
            f"{file} has schema {version}, this version reads up to {SCHEMA_VERSION}; upgrade atropos-agent"
        )


def _require_unused(path: Path) -> None:
    if (path / MANIFEST).exists():
        raise RunDirectoryError(f"{path} already holds a run; resume it, or choose another name")
    for entry in sorted(path.iterdir()):
        is_log = entry.name in (GROUPS, METRICS)
        if entry.name not in _OURS or (is_log and entry.stat().st_size):
            raise RunDirectoryError(f"{path} is not empty ({entry.name}); choose a new or empty directory")


def _require_identity(path: Path, stored: Mapping[str, Json], given: Mapping[str, Json]) -> None:
    """Compare what must not change between a run and its resume, key by key."""
    if REDACTED in str(_identity(given)):
        raise RunDirectoryError(f"{path} was recorded without its secrets ({REDACTED}); give them again")
    before, after = _identity(stored), _identity(redacted(given))
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)!r}, given {after.get(key)!r}" for key in changed)
        raise RunDirectoryError(f"{path} is a different run ({listed}); use its own settings or a new name")


def _identity(manifest: Mapping[str, Json]) -> Mapping[str, Json]:
    identity = manifest.get("identity")
    return identity if isinstance(identity, Mapping) else {}


def _lock(path: Path) -> int:
    """Hold the directory for this process. Waits a moment: a killed writer's children may still hold it."""
    file = path / LOCK
    with _named(file, "cannot be locked"):
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with _named(file, "cannot be locked"):
            _flock(fd, path)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _flock(fd: int, path: Path) -> None:
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                holder = os.pread(fd, 20, 0).decode("ascii", "replace")
                raise RunDirectoryError(
                    f"{path} is being written by process {holder}; wait for it or stop it"
                ) from error
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Turn a failure of the file system, or an unreadable line, into an error that names `path`."""
    try:
        yield
    except RunDirectoryError:
        raise
    except OSError as error:
        act = _NEXT_ACTS.get(error.errno or 0, "check the disk, then resume the run: what it holds is intact")
        raise RunDirectoryError(f"{path} {what}: {error.strerror or error}; {act}") from error
