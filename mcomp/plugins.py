"""Passes and backends come through entry points of the group `mcomp.plugins`; the built-in ones are one such entry.

An entry names a module; importing it registers what it has (`@register_pass`, `register_backend`, `@lowers`).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from mcomp.errors import McompError

_BUILTIN = "mcomp.builtin"
_loaded = False


def load_plugins() -> None:
    """Import every plug-in once. Raises McompError naming the plug-in that fails to import."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    import_module(_BUILTIN)
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
