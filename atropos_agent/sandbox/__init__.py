"""Where model-written commands run."""

from atropos_agent.sandbox.pool import SandboxPool, probe_backend
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

__all__ = [
    "ExecResult",
    "ExecStatus",
    "FileEntry",
    "Isolation",
    "Job",
    "JobReport",
    "Sandbox",
    "SandboxPool",
    "SandboxSpec",
    "Session",
    "SessionKind",
    "probe_backend",
]
