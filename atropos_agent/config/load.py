"""Merge a config file, the environment and the command line into one validated RunConfig.

Precedence, lowest first: defaults, generic variables (OPENAI_*, LLM_*, NOUS_*; used only where nothing else
sets a value), the file, ATROPOS_* variables, the command line. The embedded policy ignores all variables.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from atropos_agent.config.models import PolicyConfig, RunConfig, expand_policy
from atropos_agent.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Tree = dict[str, JsonValue]

GENERIC_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "base_url": ("OPENAI_BASE_URL", "LLM_BASE_URL"),
    "model": ("LLM_MODEL",),
    "api_key": ("NOUS_API_KEY", "OPENAI_API_KEY"),
}
SERVER_VARIABLES: Mapping[str, str] = {
    "base_url": "ATROPOS_SERVER_BASE_URL",
    "model": "ATROPOS_SERVER_MODEL",
    "api_key": "ATROPOS_SERVER_API_KEY",
    "tokenizer": "ATROPOS_TOKENIZER_NAME",
    "request_timeout_s": "ATROPOS_SERVER_TIMEOUT_S",
}


def load_run_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    defaults: Mapping[str, JsonValue] | None = None,
) -> RunConfig:
    """Read a YAML file (or take `defaults`), apply the environment and overrides (`--env.group_size=4`).

    Raises ConfigError with the file or flag, the dotted location, what is allowed there, and the nearest
    known key.
    """
    tree = _read_yaml(path) if path is not None else deepcopy(dict(defaults or {}))
    given = [_parse_override(override) for override in overrides]
    # before the environment: variables must fill the policy that the command line chose, not the file's
    _choose_policy(tree, given)
    _apply_environment(tree, os.environ if environ is None else environ)
    for keys, value in given:
        _put(tree, keys, value)
    return validate(RunConfig, tree, source=str(path or "the command line"))


def load_policy_config(
    base_url: str,
    *,
    model: str | None = None,
    tokenizer: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> PolicyConfig:
    """The config of one server, given by its URL. Other settings, such as the key, come from the environment.

    Raises ConfigError if `base_url` is not an HTTP URL.
    """
    address = base_url if "://" in base_url else f"http://{base_url}"
    given = {"base_url": address, "model": model, "tokenizer": tokenizer}
    known = {key: value for key, value in given.items() if value is not None}
    tree: Tree = {"policy": cast("JsonValue", dict(known))}
    _apply_environment(tree, os.environ if environ is None else environ)
    # arguments override ATROPOS_* variables, as the command line does
    settings = {**cast("Tree", tree["policy"]), **cast("Tree", known)}
    return validate(PolicyConfig, settings, source="the command line")


def validate(model: type[Model], tree: Mapping[str, JsonValue], *, source: str, prefix: str = "") -> Model:
    """Validate `tree` as `model`. Raises ConfigError with one line per invalid value; `prefix` is put before
    its dotted location."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, detail, prefix) for detail in error.errors(include_url=False)]
        raise ConfigError("\n  ".join([f"{source} is not a valid config:", *lines])) from None


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping at the top, got {type(tree).__name__}")
    return cast("Tree", tree)


def _parse_override(text: str) -> tuple[list[str], JsonValue]:
    name, equals, raw = text.removeprefix("--").partition("=")
    if not equals or not text.startswith("--") or not all(name.split(".")):
        raise ConfigError(
            f"cannot read {text!r}: an override is written --section.key=value, e.g. --env.seed=1"
        )
    try:
        return name.split("."), cast("JsonValue", yaml.safe_load(raw))
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value of {text!r}: {error}") from error


def _choose_policy(tree: Tree, given: Sequence[tuple[list[str], JsonValue]]) -> None:
    """Set the policy that the command line names. A URL for an embedded policy makes it an HTTP policy."""
    chosen = {".".join(keys): value for keys, value in given}
    if "policy" in chosen:
        tree["policy"] = chosen["policy"]
    elif "policy.base_url" in chosen and "policy.kind" not in chosen and _is_embedded(tree.get("policy")):
        _put(tree, ("policy", "kind"), "http")


def _is_embedded(policy: JsonValue) -> bool:
    return policy == "embedded" or (isinstance(policy, dict) and policy.get("kind") == "embedded")


def _put(tree: Tree, keys: Sequence[str], value: JsonValue) -> None:
    node = tree
    for key in keys[:-1]:
        below = node.get(key)
        if key == "policy":  # it may be a short form (a text): keep its meaning when a key is set below it
            below = cast("JsonValue", expand_policy(below))
        inner: Tree = below if isinstance(below, dict) else {}
        node[key] = inner
        node = inner
    node[keys[-1]] = value


def _apply_environment(tree: Tree, environ: Mapping[str, str]) -> None:
    policy = tree.get("policy")
    if _is_embedded(policy):
        return
    for key, names in GENERIC_VARIABLES.items():
        value = next((environ[name] for name in names if environ.get(name)), None)
        # a policy that is a text is a URL, see `expand_policy`
        present = (isinstance(policy, dict) and key in policy) or (
            isinstance(policy, str) and key == "base_url"
        )
        if value is not None and not present:
            _put(tree, ("policy", key), value)
    for key, name in SERVER_VARIABLES.items():
        if environ.get(name):
            _put(tree, ("policy", key), environ[name])


def _explain(model: type[BaseModel], detail: Any, prefix: str) -> str:
    location = [str(part) for part in detail["loc"]]
    dotted = ".".join([prefix, *location] if prefix else location)
    if detail["type"] != "extra_forbidden":
        reason = detail["msg"].removeprefix("Value error, ")
        return f"{dotted or 'the config'}: {reason} (got {detail['input']!r})"
    known = _fields_at(model, location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{dotted}: unknown key{hint} Known here: {', '.join(known)}"


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        below = field.annotation if field is not None else None
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            return []
        model = below
    return sorted(model.model_fields)
