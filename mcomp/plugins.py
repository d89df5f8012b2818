"""Passes and backends come through entry points of the group `mcomp.plugins`; the built-in ones are one such entry.

An entry names a module; importing it registers what it has (`@register_pass`, `register_backend`, `@lowers`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from mcomp.errors import McompError

if TYPE_CHECKING:
    from mcomp.backend import CompileOptions, Executable, Stored

    Revive = Callable[[Stored, CompileOptions], Executable | None]

_BUILTIN = "mcomp.builtin"
_loaded = False


def load_plugins() -> None:
    """Import every plug-in once. Raises McompError naming the plug-in that fails to import."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    from importlib.metadata import entry_points

    import_module(_BUILTIN).register()
    for entry in entry_points(group="mcomp.plugins"):
        if entry.value == _BUILTIN:
            continue
        try:
            entry.load()
        except Exception as e:
            raise McompError(
                f"the plug-in {entry.name} ({entry.value}) failed to import: {type(e).__name__}: {e}", code="MC0002",
                help=f"repair or uninstall the package that provides {entry.value}",
            ) from e


def reviver(target: str) -> Revive | None:
    """What runs trusted code of an artifact for a target without reading its graph, and without loading the plug-ins; None
    where the target has no such thing."""
    module = import_module(_BUILTIN).REVIVERS.get(target.split(":", 1)[0])
    return None if module is None else import_module(module).revive
