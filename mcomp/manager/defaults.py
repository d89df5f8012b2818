"""The pipelines that `optimize` runs without being asked."""

CLEANUP = "fixpoint(simplify,fold,cse,dce)"
"""Lossless clean-up of a captured graph."""

AFTER = "fixpoint(cse,dce)"
"""Run after compressions: shares equal activation quantizations, drops what nothing uses."""
