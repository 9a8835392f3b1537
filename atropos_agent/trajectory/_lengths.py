"""The check that aligned arrays have one length."""

from __future__ import annotations

from atropos_agent.errors import RecordError


def require_equal(owner: str, **lengths: int) -> None:
    """Raise RecordError unless all lengths are equal."""
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}={length}" for name, length in lengths.items())
        raise RecordError(f"{owner} needs arrays of one length, got {listed}")
