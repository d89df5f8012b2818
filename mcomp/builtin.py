"""The built-in plug-in: mcomp's own passes and backends, registered the way a third party's are."""

from importlib import import_module

for _name in ("mcomp.passes.analysis", "mcomp.passes.cleanup", "mcomp.passes.compress",
              "mcomp.backends.reference", "mcomp.backends.cpu"):
    import_module(_name)
