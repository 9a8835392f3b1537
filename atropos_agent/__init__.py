"""RL trajectory collection for tool-using language models: exact tokens, real sandboxes, scored groups."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atropos_agent.agent import AtroposAgent, Run, TurnResult
    from atropos_agent.config import AgentConfig, EnvConfig, RunConfig, load_run_config
    from atropos_agent.environment import AgentEnv, Reference, check_environment, open_environment
    from atropos_agent.errors import AtroposAgentError, SandboxError
    from atropos_agent.events import Event, EventType
    from atropos_agent.policy import CallablePolicy, EmbeddedPolicy, HttpPolicy, Policy
    from atropos_agent.renderer import Renderer
    from atropos_agent.rubric import Attempt, Reward, Rubric
    from atropos_agent.sandbox import FileEntry, Sandbox, SandboxPool
    from atropos_agent.toolset import Allow, Deny, Replace, Tool, ToolContext, ToolRegistry, ToolSchema
    from atropos_agent.trajectory import (
        AgentResult,
        AgentStep,
        Failure,
        Message,
        Rollout,
        RolloutGroup,
        Score,
        ScoredDataGroup,
        SequenceData,
        StopReason,
        ToolCall,
        ToolResult,
        Trace,
    )

_HOMES = {
    "agent": ["AtroposAgent", "Run", "TurnResult"],
    "config": ["AgentConfig", "EnvConfig", "RunConfig", "load_run_config"],
    "environment": ["AgentEnv", "Reference", "check_environment", "open_environment"],
    "errors": ["AtroposAgentError", "SandboxError"],
    "events": ["Event", "EventType"],
    "policy": ["CallablePolicy", "EmbeddedPolicy", "HttpPolicy", "Policy"],
    "renderer": ["Renderer"],
    "rubric": ["Attempt", "Reward", "Rubric"],
    "sandbox": ["FileEntry", "Sandbox", "SandboxPool"],
    "toolset": ["Allow", "Deny", "Replace", "Tool", "ToolContext", "ToolRegistry", "ToolSchema"],
    "trajectory": [
        "AgentResult",
        "AgentStep",
        "Failure",
        "Message",
        "Rollout",
        "RolloutGroup",
        "Score",
        "ScoredDataGroup",
        "SequenceData",
        "StopReason",
        "ToolCall",
        "ToolResult",
        "Trace",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AgentConfig",
    "AgentEnv",
    "AgentResult",
    "AgentStep",
    "Allow",
    "AtroposAgent",
    "AtroposAgentError",
    "Attempt",
    "CallablePolicy",
    "Deny",
    "EmbeddedPolicy",
    "EnvConfig",
    "Event",
    "EventType",
    "Failure",
    "FileEntry",
    "HttpPolicy",
    "Message",
    "Policy",
    "Reference",
    "Renderer",
    "Replace",
    "Reward",
    "Rollout",
    "RolloutGroup",
    "Rubric",
    "Run",
    "RunConfig",
    "Sandbox",
    "SandboxError",
    "SandboxPool",
    "Score",
    "ScoredDataGroup",
    "SequenceData",
    "StopReason",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolRegistry",
    "ToolResult",
    "ToolSchema",
    "Trace",
    "TurnResult",
    "check_environment",
    "load_run_config",
    "open_environment",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
