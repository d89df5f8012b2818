"""A whole run: kernels, networks, times."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import report, runners, timing
from benchmarks.gpu.check import check
from benchmarks.gpu.kernels import Product, products, runner
from benchmarks.gpu.models import Network, build
from benchmarks.gpu.report import Row
from mcomp.backends.triton.device import current_device
from mcomp.backends.triton.manifest import entries

LIMITS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2, "quantize": 0.2}
"""Relative error that a network's outputs may have, by what computes it; int4, int8 and fp8: the last."""
VARIANTS = (("float32", torch.float32, ""), ("float16", torch.float16, ""), ("bfloat16", torch.bfloat16, ""),
            ("int8", torch.float32, "quantize{bits=8}"), ("fp8", torch.bfloat16, "quantize{format=fp8}"),
            ("int4", torch.float16, "quantize{bits=4,group=32}"))


def run(options: argparse.Namespace) -> int:
    """Check, time, report. Returns 1 where something is wrong or was skipped."""
    device = current_device()
    interpreted = device.chip.interpreted
    home = "cpu" if interpreted else "cuda"
    print(f"device: {device.name}, torch {torch.__version__}", file=sys.stderr)
    faults = [] if options.no_kernels else _check_kernels(options, device.chip.arch)
    rows: list[Row] = []
    batches = [int(b) for b in options.batches.split(",")] if not interpreted else [2]
    for name in filter(None, options.models.split(",")):
        if options.only and options.only not in name:
            continue
        network = build(name, small=options.small)
        for batch in batches:
            found, wrong = _network(network, batch, home, options, time=not interpreted and not options.no_times)
            rows += found
            faults += wrong
    if not interpreted and not options.no_times:
        rows += _products(options)
    print(report.table(rows))
    if interpreted:
        print(report.NO_FIGURES)
    elif not options.no_times:
        report.write(Path(options.json), rows, {
            "device": device.name, "torch": torch.__version__, "triton": _version("triton"), "torchao": _version("torchao"),
        })
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _check_kernels(options: argparse.Namespace, arch: int) -> list[str]:
    faults, count = [], 0
    for checked in check([e for e in entries() if options.only in e.id], arch, small=options.small):
        count += 1
        if checked.fault:
            faults.append(f"{checked.name}: {checked.fault}")
    print(f"{count} kernels checked, {len(faults)} with faults", file=sys.stderr)
    return faults


def _network(network: Network, batch: int, home: str, options: argparse.Namespace, *, time: bool) -> tuple[list[Row],
                                                                                                           list[str]]:
    """Rows and faults of a network at a batch size."""
    inputs = network.inputs(batch)
    with torch.no_grad():
        reference = network.module(*inputs)
    faults: list[str] = []
    ready: list[runners.Runner] = []
    errors: dict[str, float] = {}
    rows: list[Row] = []
    for kind, dtype, pipeline in VARIANTS:
        made = _made(lambda d=dtype, p=pipeline: runners.ours(network, inputs, d, home, p), f"mcomp {kind}", rows, network,
                     batch)
        if made is None:
            faults.append(f"{network.name}, mcomp {kind}: {rows[-1].note}")
            continue
        named = runners.Runner(f"mcomp {kind}", made.call)
        error = _error(named.call(), reference)
        errors[named.name] = error
        if not error <= LIMITS.get(kind, LIMITS["quantize"]):
            faults.append(f"{network.name}, {named.name}: relative error {error:.2g}")
        ready.append(named)
    if not time:
        return [*rows, *(Row(network.name, batch, r.name, error=errors[r.name]) for r in ready)], faults
    for name, dtype in runners.HALVES.items():
        for make in (runners.eager, runners.inductor):
            made = _made(lambda m=make, d=dtype, n=name: m(network, inputs, d, home, n), f"{make.__name__} {name}", rows,
                         network, batch)
            ready += [made] if made is not None else []
    for kind in ("int8", "fp8", "int4"):
        made = _made(lambda k=kind: runners.torchao(network, inputs, torch.bfloat16, home, k), f"torchao {kind}", rows,
                     network, batch)
        ready += [made] if made is not None else []
    for other in ready[len(errors):]:
        errors[other.name] = _error(other.call(), reference)
    times = timing.interleave(ready, rounds=options.rounds)
    rows += [Row(network.name, batch, r.name, statistics.median(times[r.name]), None, errors[r.name]) for r in ready]
    return rows, faults


def _made(
    make: Callable[[], runners.Runner], name: str, rows: list[Row], network: Network, batch: int
) -> runners.Runner | None:
    """A runner that has run once; a row with the reason where it cannot."""
    try:
        made = make()
        made.call()
        return made
    except Exception as e:  # whatever a peer raises, it is listed as missing
        rows.append(Row(network.name, batch, name, note=f"{type(e).__name__}: {str(e)[:160]}".replace("\n", " ")))
        return None


def _error(found: Any, reference: torch.Tensor) -> float:
    a, b = torch.as_tensor(found).detach().double().cpu(), reference.double()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def _products(options: argparse.Namespace) -> list[Row]:
    """Single products: ours, the library's, and how much of the measured peak or bandwidth they reach."""
    from mcomp.plan.profile import device_profile

    profile = device_profile("cuda")
    rows: list[Row] = []
    for product in products(small=options.small):
        listed = [runners.Runner("mcomp", runner(product).call)]
        if product.library is not None:
            listed.append(runners.Runner("library", product.library(product.rows, product.cols, product.inner)))
        times = timing.interleave(listed, rounds=options.rounds)
        for one in listed:
            ms = statistics.median(times[one.name])
            rows.append(Row(f"{product.name} {product.rows}x{product.cols}x{product.inner}", product.rows, one.name, ms,
                            _fraction(product, ms, profile),
                            note=f"goal: {product.goal:.0%} of the best library call or bandwidth"))
    return rows


def _fraction(product: Product, ms: float, profile: Any) -> float:
    """Of the measured bandwidth for single rows, else of the measured peak."""
    if product.rows == 1:
        return float(product.moved / (ms * 1e-3) / profile.bytes_per_second(product.moved))
    return float(product.flops / (ms * 1e-3) / profile.rate(product.kind))


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
