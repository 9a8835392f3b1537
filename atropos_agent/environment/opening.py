"""Makes a ready environment from a run config: policy, renderer and sandboxes, closed in every case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from atropos_agent.config import DebugSettings, PolicyConfig, RunConfig, validate
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.environment.agent_env import AgentEnv
from atropos_agent.errors import ConfigError, RenderError
from atropos_agent.plugins import load
from atropos_agent.policy import EmbeddedPolicy, HttpPolicy, Policy, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.sandbox import probe_backend


@asynccontextmanager
async def open_environment(config: RunConfig) -> AsyncIterator[AgentEnv[Any]]:
    """Build and enter what `config` describes. The sandbox backend is probed only if it is needed.

    Raises ConfigError (names, keys, tokenizer), SandboxUnavailable, ProviderError (server not reachable,
    model unknown); all before the first item.
    """
    env_type = load("environments", config.environment, expected=AgentEnv)
    env_config = validate(env_type.config_type, config.env, source=config.environment, prefix="env")
    policy = build_policy(config.policy)
    try:
        env: AgentEnv[Any] = env_type(policy, config=env_config, agent=config.agent, sandbox=config.sandbox)
        # This machine is checked before the server: a refusal must not wait for a server that is down.
        if env.sandboxes.needed:
            await probe_backend(config.sandbox.backend, env.sandboxes.spec)
        env.renderer = await _load_renderer(config.policy, policy)
        async with env:
            yield env
    finally:
        await policy.aclose()


def build_policy(config: PolicyConfig) -> EmbeddedPolicy | HttpPolicy:
    """The policy that `config` describes. Raises ConfigError."""
    if config.kind == "embedded":
        return EmbeddedPolicy()
    return HttpPolicy(
        config.base_url,
        model=config.model,
        api_key=None if config.api_key is None else config.api_key.get_secret_value(),
        wire=None if config.wire is None else Wire(config.wire),
        max_concurrency=config.max_concurrency,
        connect_timeout_s=config.connect_timeout_s,
        request_timeout_s=config.request_timeout_s,
        debug=DebugSettings.from_environ(),
    )


async def _load_renderer(config: PolicyConfig, policy: Policy) -> Renderer:
    if isinstance(policy, EmbeddedPolicy):
        return Renderer.load(policy.tokenizer_path, marks=HERMES_MARKS)
    capabilities = await policy.probe()
    try:
        return Renderer.load(config.tokenizer or capabilities.model, marks=HERMES_MARKS)
    except RenderError as error:
        raise ConfigError(f"policy.tokenizer: {error}") from error
