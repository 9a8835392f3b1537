"""Checks whether recorded logprobs are those of the weights: teacher-forces a run and compares each token."""

from atropos_agent.logprob_check.check import LogprobCheck, OriginCheck, check_run
from atropos_agent.logprob_check.distribution import Distribution, Worst
from atropos_agent.logprob_check.recorded import Origin
from atropos_agent.logprob_check.server import Server
from atropos_agent.logprob_check.teacher import Teacher
from atropos_agent.logprob_check.weights import Weights

__all__ = [
    "Distribution",
    "LogprobCheck",
    "Origin",
    "OriginCheck",
    "Server",
    "Teacher",
    "Weights",
    "Worst",
    "check_run",
]
