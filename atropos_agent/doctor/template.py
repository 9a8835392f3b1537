"""A chat template's certificate in words, and what it means for collecting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from atropos_agent.doctor.findings import Check, Grade
from atropos_agent.renderer import Certificate, Renderer

FOLLOW = "--agent.history=template, and --env.on_branch=last or drop"
SHOWN_REASONS = 3


def examine_template(renderer: Renderer) -> Iterator[Check]:
    """The verdict on append mode, then every fact of the certificate."""
    certificate = renderer.certificate
    yield check_certificate(certificate)
    for field in fields(certificate):
        if field.name not in ("bridge", "reasons"):
            name = field.name.replace("_", " ")
            yield Check(name, Grade.GOOD, _words(getattr(certificate, field.name), renderer))
    for reason in certificate.reasons:
        yield Check("reason", Grade.UNKNOWN, reason)


def check_certificate(certificate: Certificate, *, server_renders: bool = False) -> Check:
    """Can a conversation go on by appending to what was sampled?"""
    if not certificate.bridge:
        refusals = [reason for reason in certificate.reasons if reason.startswith("bridge")]
        text = f"append mode is refused: {'; '.join(refusals[:SHOWN_REASONS])}"
        return Check("template", Grade.LOSS, text, FOLLOW)
    if server_renders and not certificate.history_stable:
        text = "the server's rendering rewrites history: a rollout may fall into several sequences"
        return Check("template", Grade.LOSS, text, "--env.on_branch=last or drop")
    after = "and history stays as it was" if certificate.history_stable else "history is rewritten otherwise"
    return Check("template", Grade.GOOD, f"certified for append on {certificate.probes} probes, {after}")


def _words(value: object, renderer: Renderer) -> str:
    """A fact as text; ids with what they spell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | frozenset):
        ids = sorted(value) if isinstance(value, frozenset) else value
        pieces = renderer.token_bytes([int(i) for i in ids])
        spelt = [f"{i} {piece.decode(errors='replace')!r}" for i, piece in zip(ids, pieces, strict=True)]
        return ", ".join(spelt) or "none"
    if value == "":
        return "none"
    return repr(value) if isinstance(value, str) and value != value.strip() else str(value)
