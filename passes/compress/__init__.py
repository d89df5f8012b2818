"""Compressions: distill, lowrank, prune, quantize, and treat, which does some of them to single layers."""

from mcomp.passes.compress import distill, lowrank, prune, quantize, treat

__all__ = ["distill", "lowrank", "prune", "quantize", "treat"]
