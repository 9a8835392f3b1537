"""Where model-written commands run."""

from atropos_agent.sandbox.pool import SandboxPool, probe_backend
from atropos_agent.sandbox.protocol import (
    ExecResult,
    ExecStatus,
    FileEntry,
    Isolation,
    Sandbox,
    SandboxSpec,
)

__all__ = [
    "ExecResult",
    "ExecStatus",
    "FileEntry",
    "Isolation",
    "Sandbox",
    "SandboxPool",
    "SandboxSpec",
    "probe_backend",
]
