"""`run.yaml`: the resolved config of a run, versions, seeds, and the identity that a resume must match."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import yaml

from atropos_agent.config import RunConfig
from atropos_agent.errors import RunDirectoryError
from atropos_agent.record.codec import SCHEMA_VERSION
from atropos_agent.record.durable import write_whole
from atropos_agent.record.redact import REDACTED, redacted
from atropos_agent.trajectory import Json

MANIFEST = "run.yaml"

_MAY_CHANGE = ("on_branch", "truncated", "allow_raw_logprobs", "min_group_size", "infrastructure_retries")
"""Settings of the environment that do not change what a rollout is."""


def manifest(config: RunConfig, model: str) -> dict[str, Json]:
    """What `run.yaml` records of a run of `config` with the policy `model`.

    `config.agent` holds only the settings that were given, so that on resume the environment chooses the
    same ones as before; all of the agent's settings are in the identity.
    """
    resolved = config.model_dump(mode="json", exclude={"policy": {"api_key"}})
    agent = resolved["agent"]
    resolved["agent"] = config.agent.model_dump(mode="json", exclude_unset=True)
    identity = {
        "environment": config.environment,
        "env": {key: value for key, value in resolved["env"].items() if key not in _MAY_CHANGE},
        "agent": agent,
        "model": model,
        # Slots bound how many rollouts run at once; they do not change a rollout.
        "sandbox": {key: value for key, value in resolved["sandbox"].items() if key != "slots"},
    }
    versions: dict[str, Json] = {
        "atropos-agent": version("atropos-agent"),
        "python": platform.python_version(),
    }
    return {"config": resolved, "identity": identity, "versions": versions}


def write_manifest(path: Path, manifest: Mapping[str, Json]) -> dict[str, Json]:
    """Write `run.yaml` into the directory `path`, without secrets; what was written. Raises OSError."""
    stored: dict[str, Json] = {"schema": SCHEMA_VERSION, **redacted(manifest)}
    write_whole(path / MANIFEST, yaml.safe_dump(stored, sort_keys=False, allow_unicode=True))
    return stored


def read_manifest(path: Path | str) -> dict[str, Json]:
    """What `run.yaml` holds. Raises RunDirectoryError if `path` is not a run or has a newer schema."""
    file = Path(path) / MANIFEST
    try:
        manifest = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path} is not a run: it has no {MANIFEST}; start a new run") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunDirectoryError(f"{file} cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise RunDirectoryError(f"{file} does not hold a mapping; it was not written by a run")
    require_schema(manifest.get("schema"), file)
    return manifest


def require_schema(found: object, file: Path) -> int:
    """`found` where it is a schema that this version reads. Raises RunDirectoryError."""
    if not isinstance(found, int):
        raise RunDirectoryError(f"{file} has no schema version; it was not written by a run")
    if found > SCHEMA_VERSION:
        raise RunDirectoryError(
            f"{file} has schema {found}, this version reads up to {SCHEMA_VERSION}; upgrade atropos-agent"
        )
    return found


def require_identity(path: Path, stored: Mapping[str, Json], given: Mapping[str, Json]) -> None:
    """Compare what must not change between a run and its resume, key by key. Raises RunDirectoryError."""
    if REDACTED in str(_identity(given)):
        raise RunDirectoryError(f"{path} was recorded without its secrets ({REDACTED}); give them again")
    before, after = _identity(stored), _identity(redacted(given))
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)!r}, given {after.get(key)!r}" for key in changed)
        raise RunDirectoryError(f"{path} is a different run ({listed}); use its own settings or a new name")


def _identity(manifest: Mapping[str, Json]) -> Mapping[str, Json]:
    identity = manifest.get("identity")
    return identity if isinstance(identity, Mapping) else {}
