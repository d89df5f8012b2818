"""Passes that ship with mcomp: analyses, clean-ups and compressions. In Python this package is `mcomp.passes`."""

if __name__ != "mcomp.passes":
    raise ImportError("import this package as `mcomp.passes`: a second copy would have a registry of its own")
