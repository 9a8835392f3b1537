"""The kinds of defects, each with a stable code, and a finding with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType


class Severity(StrEnum):
    """An error corrupts training or stops a reader; a warning costs data, or may be intended."""

    ERROR = "error"
    WARNING = "warning"


_ERRORS = """
unreadable-line torn-line nan-literal unknown-shape record-malformed schema-newer repeated-group
columns-differ rows-differ values-malformed empty-trajectory
mask-binary mask-inverted mask-foreign nothing-trained everything-trained
end-of-turn-doubled end-of-turn-missing end-of-turn-untrained observation-trained
logprob-positive logprob-zeros logprob-ones logprob-sentinel logprob-not-finite logprob-null
score-not-finite advantage-not-finite placeholder-tokens id-negative id-outside-vocabulary
message-malformed retokenized-with-logprobs group-record-mismatch span-mismatch
"""
_WARNINGS = """
logprobs-absent truncated-unflagged messages-mismatch zero-variance duplicate-in-group duplicate-in-file
group-of-one group-size-differs prefix-break decode-encode-drift
"""
CODES: Mapping[str, Severity] = MappingProxyType(
    {str(code): Severity.ERROR for code in _ERRORS.split()}
    | {str(code): Severity.WARNING for code in _WARNINGS.split()}
)
"""Every code and how severe it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect. `line` counts from 1; `trajectory` and `token` from 0, None where the defect has none."""

    code: str
    text: str
    trajectory: int | None = None
    token: int | None = None
    line: int = 0
    file: str = ""

    @property
    def severity(self) -> Severity:
        """How severe its kind is."""
        return CODES[self.code]

    def at(self, file: str, line: int) -> Finding:
        """The same finding with its place."""
        return replace(self, file=file, line=line)

    def __str__(self) -> str:
        places = [("trajectory", self.trajectory), ("token", self.token)]
        inside = ", ".join(f"{name} {number}" for name, number in places if number is not None)
        where = f"{self.file}:{self.line}: " + (f"{inside}: " if inside else "")
        return f"{where}{self.severity} {self.code}: {self.text}"

    def as_json(self) -> dict[str, str | int | None]:
        """For one line of JSON."""
        return {
            "file": self.file,
            "line": self.line,
            "trajectory": self.trajectory,
            "token": self.token,
            "severity": self.severity.value,
            "code": self.code,
            "text": self.text,
        }
