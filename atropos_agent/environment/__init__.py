"""Items, rollouts, scores and groups: the contract of an environment."""

from atropos_agent.environment.agent_env import AgentEnv
from atropos_agent.environment.checking import Finding, Rule, check_environment, require_all
from atropos_agent.environment.contract import Item, Reference, Validation
from atropos_agent.environment.opening import open_environment
from atropos_agent.environment.sandboxes import NoSandbox

__all__ = [
    "AgentEnv",
    "Finding",
    "Item",
    "NoSandbox",
    "Reference",
    "Rule",
    "Validation",
    "check_environment",
    "open_environment",
    "require_all",
]
