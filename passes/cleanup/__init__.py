"""Clean-ups: dce, cse, fold, simplify, fuse."""

from mcomp.passes.cleanup import cse, dce, fold, simplify

__all__ = ["cse", "dce", "fold", "simplify"]
