"""User configuration: files, command-line overrides, environment variables. The only reader of os.environ."""

from atropos_agent.config.debug import DEBUG_VARIABLES, DebugSettings, quiet_libraries
from atropos_agent.config.load import (
    GENERIC_VARIABLES,
    SERVER_VARIABLES,
    load_policy_config,
    load_run_config,
    validate,
)
from atropos_agent.config.models import (
    AgentConfig,
    CollectConfig,
    EnvConfig,
    PolicyConfig,
    RunConfig,
    SandboxConfig,
)

__all__ = [
    "DEBUG_VARIABLES",
    "GENERIC_VARIABLES",
    "SERVER_VARIABLES",
    "AgentConfig",
    "CollectConfig",
    "DebugSettings",
    "EnvConfig",
    "PolicyConfig",
    "RunConfig",
    "SandboxConfig",
    "load_policy_config",
    "load_run_config",
    "quiet_libraries",
    "validate",
]
