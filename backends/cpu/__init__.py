"""The CPU backend: generated C++."""

from mcomp.backends.cpu.backend import BACKEND, CpuBackend

__all__ = ["BACKEND", "CpuBackend"]
