"""Clean-ups: dce, cse, fold, simplify, fuse."""

from mcomp.passes.cleanup import cse, dce, fold, fuse, simplify

__all__ = ["cse", "dce", "fold", "fuse", "simplify"]
