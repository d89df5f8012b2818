"""Compressions: distill, quantize."""

from mcomp.passes.compress import distill, quantize

__all__ = ["distill", "quantize"]
