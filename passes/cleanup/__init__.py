"""Clean-ups: dce, cse, fold, simplify, fuse."""
