"""`mcomp doctor`."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from typing import Any

from mcomp.commands.common import emit_json, print_table


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--refresh", action="store_true", help="measure the machine's rates again")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Report on this machine. 1 when the CPU backend cannot generate code here."""
    from mcomp.backend import backends
    from mcomp.plan.profile import device_profile
    from mcomp.report.render import quantity
    from mcomp.threads import available_threads

    facts: dict[str, Any] = {
        "mcomp": metadata.version("mcomp") if _installed("mcomp") else "not installed as a package",
        "python": sys.version.split()[0], "machine": platform.machine(), "cores": available_threads(),
    }
    for package in ("torch", "numpy", "safetensors", "rich"):
        facts[package] = metadata.version(package) if _installed(package) else "missing"
    ready = True
    for name, backend in sorted(backends().items()):
        reason = backend.available()
        facts[f"target {name}"] = "ready" if reason is None else reason
        ready = ready and (reason is None or name != "cpu")
        facts.update({f"target {name}: {k}": v for k, v in backend.describe().items()})
    copies = _openmp_copies()
    facts["OpenMP copies in this process"] = ", ".join(copies) or "none"
    profile = device_profile(refresh=arguments.refresh)
    facts["device"] = f"{profile.device}, {profile.threads} threads"
    for kind, rate in profile.limits:
        facts[f"peak {kind}"] = quantity(rate, "operations/s")
    for kind, rate in profile.rates:
        facts[f"our kernels {kind}"] = quantity(rate, "operations/s")
    for name, rates in (("reading", profile.reads), ("our kernels' bandwidth", profile.bandwidth)):
        if rates:
            facts[name] = ", ".join(f"{quantity(size, 'B', 1024)} {quantity(rate, 'B/s')}" for size, rate in rates)
    facts["cost of a kernel"] = f"{profile.overhead_us:.2f} us"
    if len(copies) > 1:
        facts["warning"] = "several OpenMP runtimes are loaded; their threads may compete"
    if arguments.json:
        emit_json(facts)
    else:
        print_table("doctor", [("what", "l"), ("found", "l")], [(k, str(v)) for k, v in facts.items()])
    return 0 if ready else 1


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _openmp_copies() -> list[str]:
    """Paths of OpenMP runtimes mapped into a process that has imported torch and numpy."""
    try:
        import numpy  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        pass
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "omp" in line.rsplit("/", 1)[-1] and ".so" in line}
    except OSError:
        return []
    return sorted(p for p in paths if any(name in p.rsplit("/", 1)[-1] for name in ("libgomp", "libomp", "libiomp")))
