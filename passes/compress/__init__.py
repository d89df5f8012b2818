"""Compressions: distill, lowrank, prune, quantize, and treat, which does some of them to single layers; what the planner may
choose among."""

from mcomp.passes.compress import distill, lowrank, offers, prune, quantize, treat

__all__ = ["distill", "lowrank", "offers", "prune", "quantize", "treat"]
