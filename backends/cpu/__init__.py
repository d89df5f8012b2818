"""The CPU backend: generated C++. Importing it registers the backend and its lowerings."""

from mcomp.backends.cpu import lower
from mcomp.backends.cpu.backend import BACKEND, CpuBackend

__all__ = ["BACKEND", "CpuBackend", "lower"]
