"""Resolve the plugin names in configs: the name of an entry point, or `package.module:Class`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias

from atropos_agent.errors import ConfigError, PluginNotFound

Kind: TypeAlias = Literal["tools", "environments"]


def installed(kind: Kind) -> dict[str, EntryPoint]:
    """Every plugin of `kind` that an installed distribution registers, by name, sorted."""
    found = entry_points(group=f"atropos_agent.{kind}")
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def load(kind: Kind, name: str, *, expected: type | None = None) -> Any:
    """Import the plugin `name`: the name of an entry point, or `package.module:Attribute`.

    Raises PluginNotFound with the installed names and the nearest match, or with the reason why the import
    failed. Raises ConfigError if the object is not a concrete subclass of `expected`.
    """
    found = _find(kind, name)
    if expected is not None:
        _require_class(kind, name, found, expected)
    return found


def _find(kind: Kind, name: str) -> object:
    if ":" in name:
        return _import(kind, name)
    known = installed(kind)
    if name in known:
        return _import(kind, known[name].value)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(known) or "none"
    raise PluginNotFound(
        f"no {kind.removesuffix('s')} named {name!r}{hint} Installed: {listed}. "
        "A class of your own is written package.module:Class"
    )


def _require_class(kind: Kind, name: str, found: object, expected: type) -> None:
    what = f"{kind.removesuffix('s')} {name!r}"
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise ConfigError(f"{what} is {found!r:.80}, not a subclass of {expected.__name__}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ConfigError(f"{what} is abstract: it does not define {missing}")


def _import(kind: Kind, target: str) -> object:
    module_name, _, attribute = target.partition(":")
    # import_module raises ValueError or TypeError for an empty or relative name: refuse it before
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise PluginNotFound(
            f"cannot load {kind.removesuffix('s')} {target!r}: a class of your own is written "
            "package.module:Class"
        )
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise PluginNotFound(f"cannot load {kind.removesuffix('s')} {target!r}: {error}") from error
    return found
