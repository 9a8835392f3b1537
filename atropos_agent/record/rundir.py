"""The run directory: the one log of a run, append-only and safe against being killed at any byte.

    run.yaml            what the run is: resolved config, versions, seeds, identity; never a key
    groups.jsonl        the live log: one line per finished group, never changed
    segments/           the sealed log, as Parquet
    pending/            finished rollouts of unfinished groups, one file per group
    metrics.jsonl       one line per report of progress
    flight.jsonl        stalled operations: when, why, and how they ended; only if there were any
    lock                held by the one writer
    logprob_check.json  differences of recorded logprobs from those of the weights, if that was checked

A line is appended, flushed and fsynced before a call returns. A group's pending file is deleted only
after its line is safe; a crash between the two leaves a pending file that the next `open` deletes. If a crash
leaves an unfinished line at the end of a file, the next `open` cuts it off and lists it in `repairs`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.record.codec import SCHEMA_VERSION, rollout_from_json, rollout_to_json
from atropos_agent.record.durable import append_line, cut_torn_end, named, sync_directory, unfinished
from atropos_agent.record.jsonl import decode_line, encode_line
from atropos_agent.record.lock import LOCK, lock, unlock
from atropos_agent.record.log import GROUPS, checked_lines, head, key_of
from atropos_agent.record.manifest import MANIFEST, read_manifest, require_identity, write_manifest
from atropos_agent.record.seal import Sealed, finish_seal, seal_live
from atropos_agent.record.unknown import Unknown, unknown_in, with_unknown
from atropos_agent.trajectory import GroupKey, Json, Rollout, RolloutGroup

logger: logging.Logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
PENDING = "pending"
FLIGHT = "flight.jsonl"
LOGPROB_CHECK = "logprob_check.json"
PENDING_LOCKS = 64

_OURS = frozenset({GROUPS, METRICS, PENDING, FLIGHT, LOCK, unfinished(Path(MANIFEST)).name})


@dataclass(frozen=True, slots=True)
class Repair:
    """What a crash left at the end of a file and was cut off: `size` bytes of an unfinished line."""

    file: str
    size: int


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
        self._unknown: dict[tuple[GroupKey, str], Unknown] = {}

    @classmethod
    def create(cls, path: Path | str, manifest: Mapping[str, Json]) -> Self:
        """A new run at `path`, which is made if it is missing and must be empty otherwise.

        `manifest["identity"]` holds what must stay the same for a resume: items, seed, group size, policy.
        """
        path = Path(path)
        with named(path, "cannot be created"):
            path.mkdir(parents=True, exist_ok=True)
            _require_unused(path)
        fd = lock(path)
        try:
            with named(path, "cannot be created"):
                _require_unused(path)  # again: another process may have used it before we held the lock
                (path / PENDING).mkdir(exist_ok=True)
                for name in (GROUPS, METRICS):
                    (path / name).touch()
                stored = write_manifest(path, manifest)
                sync_directory(path.parent)
            return cls(path, stored, fd)
        except BaseException:
            unlock(fd)
            raise

    @classmethod
    def open(cls, path: Path | str, manifest: Mapping[str, Json] | None = None) -> Self:
        """An existing run at `path`, to be continued: torn ends are cut off, finished groups are known.

        Raises RunDirectoryError if `path` is not a run, has a newer schema, is locked by another process, or
        was made from another `manifest["identity"]` than the given one.
        """
        path = Path(path)
        stored = read_manifest(path)
        if manifest is not None:
            require_identity(path, stored, manifest)
        fd = lock(path)
        try:
            run = cls(path, stored, fd)
            with named(path, "cannot be continued"):
                run._recover()
            return run
        except BaseException:
            unlock(fd)
            raise

    def _recover(self) -> None:
        (self.path / PENDING).mkdir(exist_ok=True)
        pending = sorted((self.path / PENDING).glob("*.jsonl"))
        logs = [self.path / GROUPS, self.path / METRICS, *pending]
        cut = {log.relative_to(self.path).as_posix(): cut_torn_end(log) for log in logs}
        self.repairs = tuple(Repair(file, size) for file, size in cut.items() if size)
        for repair in self.repairs:
            logger.warning("%s: cut off an unfinished line of %d bytes", self.path / repair.file, repair.size)
        self.finished = finish_seal(self.path)
        for file in pending:
            first = next(_lines(file), None)
            if first is None or key_of(first) in self.finished:
                file.unlink()

    def pending(self, item_id: str, repetition: int) -> list[Rollout]:
        """The finished rollouts of an unfinished group, in the order they were added, once each.

        Fields of a newer version are kept, and written into their group's line.
        """
        file = self._pending_file(item_id, repetition)
        found: dict[str, Rollout] = {}
        with named(file, "cannot be read"):
            for line in _lines(file) if file.exists() else ():
                held = cast("Mapping[str, Json]", line["rollout"])
                rollout = rollout_from_json(held, cast("int", line["schema"]))
                found[rollout.id] = rollout
                if line["schema"] == SCHEMA_VERSION:
                    known = decode_line(encode_line(rollout_to_json(rollout)))
                    self._unknown[(item_id, repetition), rollout.id] = unknown_in(held, known)
        return list(found.values())

    def add_rollout(self, item_id: str, repetition: int, rollout: Rollout) -> None:
        """Keep a finished rollout of a group that is not finished yet."""
        line = encode_line({**head(item_id, repetition), "rollout": rollout_to_json(rollout)})
        file = self._pending_file(item_id, repetition)
        with self._pending_lock(item_id, repetition), named(file, "cannot be written"):
            self._require_unfinished(item_id, repetition)
            append_line(file, line)

    def add_group(self, group: RolloutGroup, dropped: str | None = None) -> None:
        """Record a finished group, then delete its pending rollouts. A recorded group never changes.
        `dropped` says why no trainer gets it."""
        key = group.item_id, group.repetition
        if not group.rollouts:
            raise RecordError(
                f"item {key[0]!r}, repetition {key[1]} has no rollouts; there is nothing to record"
            )
        rollouts = [
            with_unknown(rollout_to_json(rollout), self._unknown.get((key, rollout.id), {}))
            for rollout in group.rollouts
        ]
        line = encode_line({**head(*key), "rollouts": rollouts, "dropped": dropped})
        with self._pending_lock(*key):
            file = self.path / GROUPS
            with self._groups_lock, named(file, "cannot be written"):
                self._require_unfinished(*key)
                append_line(file, line)
                self.finished.add(key)
            file = self._pending_file(*key)
            with named(file, "cannot be deleted"):
                file.unlink(missing_ok=True)
        for rollout in group.rollouts:
            self._unknown.pop((key, rollout.id), None)

    def seal(self) -> Sealed:
        """Move the finished groups of the live log into a sealed segment; rows keep their offsets."""
        with self._groups_lock:
            return seal_live(self.path)

    def add_metrics(self, metrics: Mapping[str, Json]) -> None:
        """Append one line of progress, with the time it was written."""
        line = encode_line({"schema": SCHEMA_VERSION, "time": time.time(), **metrics})
        file = self.path / METRICS
        with self._metrics_lock, named(file, "cannot be written"):
            append_line(file, line)

    def close(self) -> None:
        """Release the directory for another writer. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            unlock(fd)

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
        # Groups share a fixed set of locks: one lock per group would add up over a long run.
        return self._pending_locks[hash((item_id, repetition)) % PENDING_LOCKS]

    def _pending_file(self, item_id: str, repetition: int) -> Path:
        # A readable part for people; the digest makes it unique and allows any character in an id.
        readable = re.sub(r"[^A-Za-z0-9_-]+", "_", item_id)[:40]
        digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.path / PENDING / f"{readable}.{digest}.{repetition}.jsonl"


def _lines(file: Path) -> Iterator[dict[str, Json]]:
    with file.open("rb") as lines:
        yield from checked_lines(lines, file)


def _require_unused(path: Path) -> None:
    if (path / MANIFEST).exists():
        raise RunDirectoryError(f"{path} already holds a run; resume it, or choose another name")
    for entry in sorted(path.iterdir()):
        is_log = entry.name in (GROUPS, METRICS)
        if entry.name not in _OURS or (is_log and entry.stat().st_size):
            raise RunDirectoryError(f"{path} is not empty ({entry.name}); choose a new or empty directory")
