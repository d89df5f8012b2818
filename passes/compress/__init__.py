"""Compressions: quantize."""

from mcomp.passes.compress import quantize

__all__ = ["quantize"]
