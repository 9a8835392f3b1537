"""Inference servers: one completion for a prompt, with the token data that the server returns."""

from atropos_agent.policy.callable import CallablePolicy, Generated
from atropos_agent.policy.embedded import EmbeddedPolicy
from atropos_agent.policy.http import HttpPolicy
from atropos_agent.policy.managed import AtroposServer, ManagedPolicy
from atropos_agent.policy.protocol import Capabilities, Delta, Policy, Prompt, RequestInfo, Scorer, Wire

__all__ = [
    "AtroposServer",
    "CallablePolicy",
    "Capabilities",
    "Delta",
    "EmbeddedPolicy",
    "Generated",
    "HttpPolicy",
    "ManagedPolicy",
    "Policy",
    "Prompt",
    "RequestInfo",
    "Scorer",
    "Wire",
]
