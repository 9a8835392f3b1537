"""Names in configs become objects: entry points first, `package.module:Class` always."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias

from atropos_agent.errors import PluginNotFound

Kind: TypeAlias = Literal["tools", "environments"]


def installed(kind: Kind) -> dict[str, EntryPoint]:
    """Every plugin of `kind` that an installed distribution registers, by name, sorted."""
    found = entry_points(group=f"atropos_agent.{kind}")
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def load(kind: Kind, name: str) -> Any:
    """The object that `name` stands for: an entry point's name, or `package.module:Attribute`.

    Raises PluginNotFound naming what is installed and the nearest match, or why an import failed.
    """
    if ":" in name:
        return _import(kind, name)
    known = installed(kind)
    if name in known:
        return _import(kind, known[name].value)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known) or "none"
    raise PluginNotFound(
        f"no {kind.removesuffix('s')} named {name!r}{hint} Installed: {listed}. "
        "A class of your own is written package.module:Class"
    )


def _import(kind: Kind, target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise PluginNotFound(f"cannot load {kind.removesuffix('s')} {target!r}: {error}") from error
    return found
