"""Backends that ship with mcomp: reference, cpu, triton. In Python this package is `mcomp.backends`."""

if __name__ != "mcomp.backends":
    raise ImportError("import this package as `mcomp.backends`: a second copy would have a registry of its own")
