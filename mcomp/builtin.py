"""The built-in plug-in: mcomp's own passes and backends, registered the way a third party's are."""

from importlib import import_module

MODULES = (
    "mcomp.passes.analysis", "mcomp.passes.cleanup", "mcomp.passes.compress", "mcomp.backends.reference",
    "mcomp.backends.cpu.lower", "mcomp.backends.cpu.backend", "mcomp.backends.triton.lower", "mcomp.backends.triton.backend",
)
REVIVERS = {"cpu": "mcomp.backends.cpu.recipe"}
"""By target: the module whose `revive` runs code of an artifact without its graph; importing it registers nothing."""


def register() -> None:
    """Import everything."""
    for name in MODULES:
        import_module(name)
