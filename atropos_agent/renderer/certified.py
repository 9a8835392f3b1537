"""The certificates of this process, and what a renderer makes of its own."""

from __future__ import annotations

from dataclasses import dataclass

from atropos_agent.renderer.bridge import Crossing
from atropos_agent.renderer.certificate import Certificate, certify
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.template import ChatTemplate
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.renderer.turns import Turns

CERTIFICATES_KEPT = 256
"""Each set of tools has a certificate of its own, and rollouts may bring their own tools."""
_CERTIFICATES: dict[str, Certificate] = {}


@dataclass(frozen=True, slots=True)
class Certified:
    """What follows from a certificate. A renderer keeps it: every step of every rollout asks for it."""

    certificate: Certificate
    stop_ids: frozenset[int]
    turns: Turns
    crossing: Crossing


def certified(
    template: ChatTemplate, tokens: Tokens, marks: Marks, key: str, server_stop_ids: frozenset[int]
) -> Certified:
    """The certificate of `key`, computed if this process has none yet, and what follows from it."""
    certificate = _CERTIFICATES.get(key)
    if certificate is None:
        certificate = certify(template, tokens, marks, key)
        # The oldest first; the default of `pop` is for another thread that was faster.
        while len(_CERTIFICATES) >= CERTIFICATES_KEPT:
            _CERTIFICATES.pop(next(iter(_CERTIFICATES)), None)
        _CERTIFICATES[key] = certificate
    stop_ids = tokens.eos_ids | certificate.stop_ids | server_stop_ids
    turns = Turns(template, marks, certificate.tool_bridge.calls_end)
    opens, canonical = certificate.opens_reasoning, certificate.joint == "canonical"
    return Certified(certificate, stop_ids, turns, Crossing(tokens, marks, stop_ids, opens, canonical))
