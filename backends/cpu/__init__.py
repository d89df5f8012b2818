"""The CPU backend: generated C++. Importing `lower` and `backend` registers it; what runs code alone imports neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.backends.cpu.backend import BACKEND, CpuBackend

__all__ = ["BACKEND", "CpuBackend"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module mcomp.backends.cpu has no attribute {name}")
    from mcomp.backends.cpu import backend, lower  # noqa: F401

    return getattr(backend, name)
