"""Compressions: distill, lowrank, prune, quantize."""

from mcomp.passes.compress import distill, lowrank, prune, quantize

__all__ = ["distill", "lowrank", "prune", "quantize"]
