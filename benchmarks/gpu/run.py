"""A whole run: kernels, networks, times."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import report, runners, timing
from benchmarks.gpu.check import check
from benchmarks.gpu.kernels import Product, ours, products, theirs
from benchmarks.gpu.models import Network, build
from benchmarks.gpu.report import Row
from benchmarks.gpu.runners import OURS, Runner
from mcomp.backend import KernelInfo
from mcomp.backends.triton.device import current_device
from mcomp.backends.triton.manifest import entries
from mcomp.ops.workload import PRODUCTS
from mcomp.plan.profile import DeviceProfile, device_profile

GROUP, SMALL_GROUP = 128, 32
"""Weights of int4 that share a scale, ours and torchao's; small networks are too narrow for the first."""
LIMITS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2, "quantize": 0.2}
"""Relative error that a network's outputs may have, by what computes it; int4, int8 and fp8: the last."""
PRODUCT_LIMITS = {"f16": 2e-3, "bf16": 1e-2}
"""The same of a product, by the element type of its result."""
WORK = {"fp16": "float16", "bf16": "bfloat16"}
"""Of which of our variants other runners do the work, by the end of their names; others are named alike."""


def variants(group: int) -> tuple[tuple[str, torch.dtype, str], ...]:
    """Ours by name, element type and pipeline. What int8, fp8 and int4 leave in floats is of 16 bits, as torchao's is."""
    return (("float32", torch.float32, ""), ("float16", torch.float16, ""), ("bfloat16", torch.bfloat16, ""),
            ("int8", torch.float16, "quantize{bits=8}"), ("fp8", torch.bfloat16, "quantize{format=fp8}"),
            ("int4", torch.float16, f"quantize{{bits=4,group={group}}}"))


def run(options: argparse.Namespace) -> int:
    """Check, time, report. Returns 1 where something is wrong or was skipped."""
    device = current_device()
    interpreted = device.chip.interpreted
    home = "cpu" if interpreted else "cuda"
    print(f"device: {device.name}, torch {torch.__version__}", file=sys.stderr)
    faults = [] if options.no_kernels else _check_kernels(options, device.chip.arch)
    rows: list[Row] = []
    batches = [int(b) for b in options.batches.split(",")] if not interpreted else [2]
    profile = None if interpreted or options.no_times else device_profile("cuda")
    for name in filter(None, options.models.split(",")):
        if options.only and options.only not in name:
            continue
        network = build(name, small=options.small)
        for batch in batches:
            found, wrong = _network(network, batch, home, options, profile)
            rows += found
            faults += wrong
    found, wrong = _products(options, home, profile)
    rows += found
    faults += wrong
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


def _network(
    network: Network, batch: int, home: str, options: argparse.Namespace, profile: DeviceProfile | None
) -> tuple[list[Row], list[str]]:
    """Rows and faults of a network at a batch size. Without a profile nothing is timed."""
    inputs = network.inputs(batch)
    with torch.no_grad():
        reference = network.module(*inputs)
    faults: list[str] = []
    ready: list[Runner] = []
    errors: dict[str, float] = {}
    rows: list[Row] = []
    group = SMALL_GROUP if options.small else GROUP
    for kind, dtype, pipeline in variants(group):
        made = _made(lambda d=dtype, p=pipeline: runners.ours(network, inputs, d, home, p), f"{OURS} {kind}", rows, network,
                     batch)
        if made is None:
            faults.append(f"{network.name}, {OURS} {kind}: {rows[-1].note}")
            continue
        named = Runner(f"{OURS} {kind}", made.call, made.kernels)
        error = _error(named.call(), reference)
        errors[named.name] = error
        if not error <= LIMITS.get(kind, LIMITS["quantize"]):
            faults.append(f"{network.name}, {named.name}: relative error {error:.2g}")
        ready.append(named)
    if profile is None:
        return [*rows, *(Row(network.name, batch, r.name, error=errors[r.name]) for r in ready)], faults
    for name, dtype in runners.HALVES.items():
        for make in (runners.eager, runners.inductor):
            made = _made(lambda m=make, d=dtype, n=name: m(network, inputs, d, home, n), f"{make.__name__} {name}", rows,
                         network, batch)
            ready += [made] if made is not None else []
    for kind in ("int8", "fp8", "int4"):
        made = _made(lambda k=kind: runners.torchao(network, inputs, torch.bfloat16, home, k, group), f"torchao {kind}",
                     rows, network, batch)
        ready += [made] if made is not None else []
    for other in ready[len(errors):]:
        errors[other.name] = _error(other.call(), reference)
    times = timing.interleave(ready, rounds=options.rounds)
    work = {r.name.removeprefix(f"{OURS} "): r.kernels for r in ready if r.kernels}
    for r in ready:
        kind = r.name.split(" ", 1)[1]
        done = work.get(WORK.get(kind, kind), ())
        ms = statistics.median(times[r.name])
        rows.append(Row(network.name, batch, r.name, ms, least(done, profile) / ms if done else None, errors[r.name],
                        ratio=_ratio(times, r.name)))
    return rows, faults


def least(kernels: Sequence[KernelInfo], profile: DeviceProfile) -> float:
    """Milliseconds that the work of a network takes at least: all products at the measured peaks of what they multiply, or
    all bytes that its kernels read and write at the measured bandwidth."""
    computing = sum(
        k.flops / profile.most_operations(k.compute if any(op in PRODUCTS for op in k.ops) else "scalar") for k in kernels
    )
    moved = float(sum(k.read + k.write for k in kernels))
    return max(computing, moved / profile.most_bytes_per_second(moved)) * 1e3


def _ratio(times: dict[str, list[float]], name: str) -> float | None:
    """How many times faster a runner is than the fastest of the others that are not ours."""
    others = [n for n in times if n != name and not n.startswith(OURS)]
    if not others:
        return None
    return timing.speed(times, name, min(others, key=lambda n: statistics.median(times[n])))


def _made(
    make: Callable[[], Runner], name: str, rows: list[Row], network: Network, batch: int
) -> Runner | None:
    """A runner that has run once; a row with the reason where it cannot."""
    try:
        made = make()
        made.call()
        return made
    except Exception as e:  # whatever a peer raises, it is listed as missing
        rows.append(Row(network.name, batch, name, note=_reason(e)))
        return None


def _reason(e: Exception) -> str:
    return f"{type(e).__name__}: {str(e)[:160]}".replace("\n", " ")


def _error(found: Any, reference: torch.Tensor) -> float:
    a, b = torch.as_tensor(found).detach().double().cpu(), reference.double()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def _products(
    options: argparse.Namespace, home: str, profile: DeviceProfile | None
) -> tuple[list[Row], list[str]]:
    """Single products: ours, the library's, how far both are from exact sums, and how much of the measured peak or bandwidth
    they reach. Without a profile ours are checked, and nothing is timed."""
    rows: list[Row] = []
    faults: list[str] = []
    for product in products(small=options.small):
        what = f"{product.name} {product.rows}x{product.cols}x{product.inner}"
        if options.only not in what:
            continue
        listed: list[Runner] = []
        errors: dict[str, float] = {}
        makers: dict[str, Callable[[], tuple[Runner, float]]] = {OURS: lambda p=product: ours(p)}  # type: ignore[misc]
        if product.library is not None and profile is not None:
            makers["library"] = lambda p=product: theirs(p, home)  # type: ignore[misc]
        for name, make in makers.items():
            try:
                made, errors[name] = make()
                listed.append(made)
            except Exception as e:  # a chip or a library that lacks a kernel is listed with the reason
                rows.append(Row(what, product.rows, name, note=_reason(e)))
                faults += [f"{what}: {rows[-1].note}"] if name == OURS else []
        if not errors.get(OURS, 0.0) <= PRODUCT_LIMITS[product.dtype.name]:
            faults.append(f"{what}: relative error {errors[OURS]:.2g}")
        if profile is None:
            rows += [Row(what, product.rows, r.name, error=errors[r.name]) for r in listed]
            continue
        times = timing.interleave(listed, rounds=options.rounds)
        for one in listed:
            ms = statistics.median(times[one.name])
            rows.append(Row(what, product.rows, one.name, ms, _fraction(product, ms, profile), errors[one.name],
                            f"goal: {product.goal:.0%} of the best library call or bandwidth", _ratio(times, one.name)))
    return rows, faults


def _fraction(product: Product, ms: float, profile: DeviceProfile) -> float:
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
