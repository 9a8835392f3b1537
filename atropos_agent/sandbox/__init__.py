"""Where model-written commands run."""

from atropos_agent.sandbox.backends import probe_backend
from atropos_agent.sandbox.pool import SandboxPool
from atropos_agent.sandbox.protocol import (
    ExecResult,
    ExecStatus,
    FileEntry,
    Isolation,
    Job,
    JobReport,
    Sandbox,
    SandboxSpec,
    Session,
    SessionKind,
)
from atropos_agent.sandbox.supply import PoolStats

__all__ = [
    "ExecResult",
    "ExecStatus",
    "FileEntry",
    "Isolation",
    "Job",
    "JobReport",
    "PoolStats",
    "Sandbox",
    "SandboxPool",
    "SandboxSpec",
    "Session",
    "SessionKind",
    "probe_backend",
]
