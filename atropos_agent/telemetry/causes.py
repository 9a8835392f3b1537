"""Why an operation in flight is stalled: the cause, the evidence, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from atropos_agent.telemetry.in_flight import Entry, Kind, Phase, shortened

HOLDERS_SHOWN = 3


class Cause(StrEnum):
    """Why an entry is stalled."""

    NOT_ACCEPTING = "the server does not accept connections"
    SILENT = "the server accepts but sends nothing"
    MID_STREAM = "the server stopped in mid-stream"
    REFUSING = "the server keeps refusing"
    POOL_EXHAUSTED = "our own pool is exhausted"
    SANDBOXES_EXHAUSTED = "all sandboxes are in use"
    SANDBOX_START = "a sandbox does not start"
    TOOL_HANGS = "a tool hangs"
    SCORER_HANGS = "a scorer hangs"
    ENGINE_SILENT = "the engine has not returned"
    SHUTDOWN_STALLED = "the shutdown does not end"
    LOOP_BLOCKED = "synchronous code blocks the event loop"


@dataclass(frozen=True, slots=True)
class Stall:
    """One stalled entry, its cause, and the line of text that reports it."""

    entry: Entry
    cause: Cause
    text: str


def explain(entry: Entry, everything: Sequence[Entry]) -> Stall:
    """The cause of the stall of `entry`, derived from its phase and from `everything` in flight."""
    cause = _cause(entry)
    return Stall(entry, cause, f"{cause}: {entry.name}: {_evidence(cause, entry, everything)}")


def _cause(entry: Entry) -> Cause:
    if entry.kind is Kind.SANDBOX:
        return Cause.SANDBOXES_EXHAUSTED if entry.phase is Phase.QUEUED else Cause.SANDBOX_START
    if entry.kind is not Kind.REQUEST:
        return _OTHERS[entry.kind]
    # while it backs off after failed connects, the cause is the connection, not a refusal by the server
    return Cause.NOT_ACCEPTING if entry.unreached else _REQUESTS.get(entry.phase, Cause.ENGINE_SILENT)


_OTHERS = {
    Kind.TOOL: Cause.TOOL_HANGS,
    Kind.SCORER: Cause.SCORER_HANGS,
    Kind.SHUTDOWN: Cause.SHUTDOWN_STALLED,
}
_REQUESTS = {
    Phase.QUEUED: Cause.POOL_EXHAUSTED,
    Phase.CONNECTING: Cause.NOT_ACCEPTING,
    Phase.BACKING_OFF: Cause.REFUSING,
    Phase.WAITING: Cause.SILENT,
    Phase.READING: Cause.MID_STREAM,
}


def _evidence(cause: Cause, entry: Entry, everything: Sequence[Entry]) -> str:
    for_s = f"{entry.phase_age_s:.1f} s"
    match cause:
        case Cause.NOT_ACCEPTING:
            return f"no connection for {for_s} (attempt {entry.attempt}); is it running and accepting?"
        case Cause.SILENT:
            return (
                f"sent {for_s} ago, no byte of an answer yet; a long completion looks the same: look at the "
                "server's own log, or bound it with agent.max_tokens or ATROPOS_AGENT_CHAT_TIMEOUT_S"
            )
        case Cause.MID_STREAM:
            return f"{entry.bytes_read:,} bytes came, then none for {for_s}; look at the server and any proxy"
        case Cause.REFUSING:
            return f"attempt {entry.attempt} is due after {shortened(entry.detail)}"
        case Cause.POOL_EXHAUSTED | Cause.SANDBOXES_EXHAUSTED:
            setting = "policy.max_concurrency" if entry.kind is Kind.REQUEST else "sandbox.slots"
            taken = _places_taken(entry, everything)
            return f"queued for {for_s}; {taken}; raise {setting}, or fix the holders"
        case Cause.TOOL_HANGS:
            return f"executing for {for_s} with {shortened(entry.detail)}; agent.tool_timeout_s bounds it"
        case Cause.SHUTDOWN_STALLED:
            return f"for {for_s}; still open: {_still_open(entry, everything)}"
        case _:
            return f"for {for_s}"


def _places_taken(entry: Entry, everything: Sequence[Entry]) -> str:
    """The holders of the places that `entry` waits for, oldest first, as text."""
    holders = _sharing(entry, everything)
    shown = [f"{_who(one)}: {one.state} for {one.phase_age_s:.1f} s" for one in holders[:HOLDERS_SHOWN]]
    if more := len(holders) - len(shown):
        shown.append(f"{more} more")
    return f"{len(holders)} of {entry.places} places are taken ({'; '.join(shown)})"


def is_moving(entry: Entry, everything: Sequence[Entry], limit_s: float) -> bool:
    """True if the queue of `entry` moves: a holder of a place made progress within `limit_s` seconds.

    The holder of a sandbox makes progress while another operation of the same rollout is younger than
    `limit_s`, or while none is in flight (between two steps).
    """
    if entry.phase is not Phase.QUEUED:
        return False
    return any(_gets_on(holder, everything, limit_s) for holder in _sharing(entry, everything))


def _gets_on(holder: Entry, everything: Sequence[Entry], limit_s: float) -> bool:
    if holder.kind is Kind.REQUEST:
        return holder.phase_age_s < limit_s
    # a sandbox in use is idle between two tool calls: judge its rollout by the other operations
    doings = [other for other in everything if other.owner == holder.owner and other is not holder]
    return not doings or any(doing.phase_age_s < limit_s for doing in doings)


def _sharing(entry: Entry, everything: Sequence[Entry]) -> list[Entry]:
    return [
        other
        for other in everything
        if other.kind is entry.kind and other.target == entry.target and other.phase is not Phase.QUEUED
    ]


def _who(entry: Entry) -> str:
    return f"{entry.owner or 'unknown'} step {entry.step}" if entry.step else entry.owner or "unknown"


def _still_open(entry: Entry, everything: Sequence[Entry]) -> str:
    others = [f"{other.name}: {other.state}" for other in everything if other is not entry]
    return "; ".join(others[:HOLDERS_SHOWN]) or "nothing that is tracked; send SIGUSR1 for the stacks"
