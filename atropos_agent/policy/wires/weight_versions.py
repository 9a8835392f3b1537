"""Read which weight version sampled which tokens, as vLLM and SGLang report it."""

from __future__ import annotations

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Payload, Versions
from atropos_agent.trajectory import CompletionPart


def read_versions(reported: Payload, count: int | None) -> Versions:
    """The versions in `weight_versions` (`[{"version", "start", "end"}]`, half-open, in sampled tokens), else
    the one in `weight_version`.

    `count` is the number of sampled tokens, None if unknown. Empty spans are left out; adjacent spans of one
    version are one part. Raises MalformedReply if the spans do not cover 0 to `count` without gaps.
    """
    listed, single = reported.get("weight_versions"), reported.get("weight_version")
    if not listed and not isinstance(single, list):
        return Versions(None if single is None else str(single))
    parts: list[CompletionPart] = []
    version, end = "", 0
    for index, entry in enumerate(common.entries(listed or single, "weight_versions")):
        version, length = _span(entry, end, f"weight_versions[{index}]")
        if length and (not parts or parts[-1].weight_version != version):
            parts.append(CompletionPart(end, version))
        end += length
    if count is not None and end != count:
        raise MalformedReply(f"weight_versions end at token {end} of {count} sampled ids")
    return Versions(parts[-1].weight_version if parts else version, tuple(parts) if len(parts) > 1 else ())


def _span(entry: object, expected: int, where: str) -> tuple[str, int]:
    """The version of one span and its number of tokens; it must begin at `expected`."""
    span = common.mapping(entry, where)
    version, start, end = span.get("version"), span.get("start"), span.get("end")
    if version is None or start != expected or not isinstance(end, int) or end < expected:
        raise MalformedReply(f"{where} is {dict(span)}: a version from token {expected} on was expected")
    return str(version), end - expected
