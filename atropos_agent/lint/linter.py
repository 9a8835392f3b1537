"""All checks over one file, in one pass: a line in memory, and 16 bytes for each trajectory seen."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atropos_agent.errors import ConfigError
from atropos_agent.export import Rules, trainable
from atropos_agent.lint import record
from atropos_agent.lint.findings import Finding
from atropos_agent.lint.groups import Seen, Sizes, check_group
from atropos_agent.lint.logprobs import check_logprobs
from atropos_agent.lint.messages import check_messages
from atropos_agent.lint.reading import Line, Object, read
from atropos_agent.lint.rows import (
    Row,
    as_group,
    check_columns,
    check_logprobs_given,
    check_numbers,
    check_rows,
    rows,
)
from atropos_agent.lint.tokens import check_ids, check_mask, drift, is_placeholder
from atropos_agent.lint.turns import check_turns
from atropos_agent.lint.vocabulary import Vocabulary, recorded_renderer
from atropos_agent.record.log import GROUPS, segments
from atropos_agent.record.manifest import MANIFEST
from atropos_agent.record.rundir import PENDING
from atropos_agent.trajectory import Rollout


@dataclass(frozen=True, slots=True)
class Source:
    """A file to lint, what is known of its tokenizer, and the rules that make groups of its rollouts."""

    path: Path
    vocabulary: Vocabulary
    rules: Rules = field(default_factory=Rules)


def sources(path: Path, vocabulary: Vocabulary | None = None) -> list[Source]:
    """The files to lint for `path`: the file itself, the log (sealed or not) and unfinished groups of a run,
    or a folder's *.jsonl.

    Without `vocabulary` a run's own tokenizer is used if it is available. Raises ConfigError if there is
    nothing to lint, and RunDirectoryError if a run's settings cannot be read.
    """
    if not path.is_dir():
        return [Source(path, vocabulary or Vocabulary(), _rules_of_file(path))]
    is_run = (path / MANIFEST).exists()
    if vocabulary is None and (renderer := recorded_renderer(path)) is not None:
        vocabulary = Vocabulary.of(renderer)
    if is_run:
        files = [*segments(path), path / GROUPS, *sorted((path / PENDING).glob("*.jsonl"))]
        rules = Rules.recorded(path)
    else:
        files, rules = sorted(path.glob("*.jsonl")), Rules()
    if not files:
        raise ConfigError(f"{path} holds neither a run nor any .jsonl file")
    return [Source(file, vocabulary or Vocabulary(), rules) for file in files]


def _rules_of_file(path: Path) -> Rules:
    """Those of the run that the file belongs to; the defaults for any other file."""
    runs = (folder for folder in (path.parent, path.parent.parent) if (folder / MANIFEST).exists())
    return next(map(Rules.recorded, runs), Rules())


class Linter:
    """The checks of one file. `trajectories` counts those seen; `skipped` says what could not be checked."""

    def __init__(self, source: Source) -> None:
        self.file: str = str(source.path)
        self._path = source.path
        self._known = source.vocabulary
        self._rules = source.rules
        self._seen = Seen()
        self._sizes = Sizes()
        self._keys: set[tuple[str, str]] = set()
        self._drifting: list[Finding] = []
        self._drifted = 0
        self.trajectories: int = 0

    def run(self) -> Iterator[Finding]:
        """Every finding, in the order of the file; those about the file as a whole last. Raises OSError."""
        for line in read(self._path):
            for finding in (*line.findings, *self._line(line)):
                yield finding.at(self.file, line.number)
        yield from self._sizes.odd(self.file)
        for found in self._drifting:
            share = self._drifted / self.trajectories
            text = f"{self._drifted} of {self.trajectories} trajectories ({share:.1%}) {found.text}"
            yield Finding(found.code, text, found.trajectory, found.token, found.line, self.file)

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was not checked because no tokenizer is known, in words."""
        if self._known.renderer is not None:
            return (
                () if self._known.stop_ids else ("ends of turns: no single token of the template ends one",)
            )
        without = "text, vocabulary size and decode-encode drift: give --tokenizer"
        return (without,) if self._known.stop_ids else (without, "ends of turns: give --tokenizer")

    def _line(self, line: Line) -> Iterator[Finding]:
        value = line.value
        if value is None:
            return
        if record.is_record(value):
            yield from self._record(value, line.number)
        elif (group := as_group(value)) is not None:
            if group is value:  # not for a line of one trajectory: it has no group to compare with
                yield from self._whole(group, line.number)
            yield from self._group(group, line.number)
        else:
            text = "no `tokens`: neither a group, nor a trajectory, nor a record of a run"
            yield Finding("unknown-shape", text)

    def _record(self, value: Object, line: int) -> Iterator[Finding]:
        unreadable = list(record.check_schema(value))
        yield from unreadable
        if unreadable:
            return
        read_in = record.rollouts_of(value)
        rollouts = [item for item in read_in if isinstance(item, Rollout)]
        self._known.learn(rollouts)  # before the checks, which need the end of a turn
        if "rollouts" in value:
            yield from self._repeated(value)
        for index, item in enumerate(read_in):
            if isinstance(item, Finding):
                yield item
            else:
                for trace in item.traces:
                    yield from record.check_trace(trace, index)
        delivered: set[tuple[str, int]] = set()
        stored = value.get("group")
        group = stored
        if group is None and "rollouts" in value and len(rollouts) == len(read_in):
            group = record.derived_group(value, rollouts, self._rules)
        if isinstance(group, dict) and as_group(group) is group:
            taken = yield from self._group(group, line)
            if stored is not None and len(rollouts) == len(read_in):
                yield from record.check_against_rollouts(group, taken, rollouts)
            delivered = {record.origin(group, row) for row in taken}
            if value.get("dropped") is None:
                yield from self._whole(group, line)
        elif group is not None:
            yield Finding("record-malformed", "`group` is neither null nor a group with rows of tokens")
        yield from self._undelivered(read_in, delivered, line)

    def _undelivered(
        self, read_in: Sequence[Rollout | Finding], delivered: set[tuple[str, int]], line: int
    ) -> Iterator[Finding]:
        """Check the training sequences that are not rows of the group. Only rollouts with one trainable trace
        have sequences that are."""
        for index, item in enumerate(read_in):
            if isinstance(item, Finding):
                continue
            for trace in trainable(item):
                for number, row in enumerate(record.rows_of(trace, index)):
                    if (item.id, number) not in delivered:
                        yield from self._row(row, line)

    def _repeated(self, value: Object) -> Iterator[Finding]:
        key = (str(value.get("item_id")), str(value.get("repetition")))
        if key in self._keys:
            text = f"item {key[0]!r}, repetition {key[1]} is recorded twice: it is trained twice"
            yield Finding("repeated-group", text)
        self._keys.add(key)

    def _whole(self, group: Object, line: int) -> Iterator[Finding]:
        """Checks of a group as a whole: its scores and its size."""
        if isinstance(group.get("scores"), list) and len(group["scores"]) == len(group["tokens"]):
            yield from check_group(group["scores"])
        self._sizes.add(line, len(group["tokens"]))

    def _group(self, group: Object, line: int) -> Generator[Finding, None, list[Row]]:
        """Check what a group's columns hold; returns its rows."""
        yield from check_columns(group)
        yield from check_rows(group)
        yield from check_numbers(group)
        yield from check_logprobs_given(group)
        yield from record.claims_wrongly(group.get("overrides"))
        taken: list[Row] = []
        for row in rows(group):
            if isinstance(row, Finding):
                yield row
                continue
            taken.append(row)
            yield from self._row(row, line)
        return taken

    def _row(self, row: Row, line: int) -> Iterator[Finding]:
        self.trajectories += 1
        yield from self._seen.check(row, line)
        foreign = list(check_ids(row, self._known))
        yield from foreign
        if is_placeholder(row):
            return
        yield from check_mask(row)
        if not row.trained.all():
            yield from check_turns(row, self._known)
        yield from check_logprobs(row)
        if foreign:  # ids outside the vocabulary cannot be decoded
            return
        text = self._known.text(row.ids)
        yield from check_messages(row, self._known, text)
        if text is not None and (at := drift(row, self._known, text)) is not None:
            self._drifted += 1
            # One finding for the file, with a share: drift comes from the tokenizer, not from one trajectory.
            if not self._drifting:
                text = "do not encode to their own ids again: train on the ids, never on the text"
                self._drifting.append(Finding("decode-encode-drift", text, row.index, at, line))
