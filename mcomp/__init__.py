"""mcomp: a compiler that makes trained PyTorch models smaller and faster under a quality budget that it measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.api import optimize
    from mcomp.runtime.compiled import CompiledModel
    from mcomp.runtime.loading import load

__version__ = "0.1.0"
__all__ = ["CompiledModel", "__version__", "load", "optimize"]

_LAZY = {
    "optimize": "mcomp.api",
    "load": "mcomp.runtime.loading",
    "CompiledModel": "mcomp.runtime.compiled",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module mcomp has no attribute {name}")
