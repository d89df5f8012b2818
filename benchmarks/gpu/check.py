"""Whether every kernel computes what its operators mean: all entries of the manifest on random data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mcomp.backend import CompileOptions, backend_named
from mcomp.backends.triton.builder import FUSION
from mcomp.backends.triton.manifest import Entry
from mcomp.ir import Graph, dims, dtypes
from mcomp.ir.binding import bind_inputs
from mcomp.ir.dtypes import to_torch
from mcomp.manager import PassManager
from mcomp.ops.evaluate import run_graph

LIMITS = {"f32": 2e-5, "f16": 4e-3, "bf16": 3e-2, "f8e4m3": 0.1}
"""Relative L2 error that a result may have, by its element type."""
SMALL = {"B": 5, "S": 20}
SMALL_WIDTH = 128


@dataclass(frozen=True)
class Checked:
    """An entry, the largest relative error of its results, and what is wrong with it, if anything."""

    name: str
    error: float
    fault: str = ""


def check(entries: list[Entry], arch: int, *, small: bool) -> Iterator[Checked]:
    """Run every entry that this chip has a kernel for. `small`: at sizes that the interpreter is quick with."""
    for entry in entries:
        if arch and arch < min(entry.archs):
            continue
        sizes = {s: min(v, SMALL.get(s, v)) for s, v in entry.symbols.items()} if small else dict(entry.symbols)
        try:
            yield Checked(entry.id, _error(entry, sizes, SMALL_WIDTH, 2) if small else _error(entry, sizes, 1024))
        except Exception as e:  # every fault is reported, whatever it is
            yield Checked(entry.id, float("nan"), f"{type(e).__name__}: {str(e)[:300]}")


def _error(entry: Entry, sizes: Mapping[str, int], width: int, calls: int = 3) -> float:
    """The largest error over so many calls: a first one, the one that is recorded, and a replay."""
    graph = entry.graph(seed=1, width=width)
    PassManager(FUSION).run(graph)
    inputs = made_up(graph, sizes)
    symbols = bind_inputs(graph, inputs)
    executable = backend_named("cuda").compile(graph, CompileOptions())
    expected = run_graph(graph, inputs)
    worst = 0.0
    for _ in range(calls):
        for found, wanted in zip(executable.run(inputs, symbols), expected, strict=True):
            worst = max(worst, _compare(torch.as_tensor(found), wanted, entry))
    return worst


def _compare(found: torch.Tensor, wanted: torch.Tensor, entry: Entry) -> float:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise AssertionError(f"{found.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}")
    if not wanted.is_floating_point():
        if not torch.equal(found, wanted):
            raise AssertionError("wrong integers")
        return 0.0
    a, b = found.double(), wanted.double()
    finite = b.isfinite()
    if not torch.equal(finite, a.isfinite()):
        raise AssertionError("infinities or NaN elsewhere")
    error = float(torch.linalg.vector_norm((a - b)[finite]) / max(float(torch.linalg.vector_norm(b[finite])), 1e-30))
    limit = max(LIMITS[dtypes.from_torch(wanted.dtype).name],
                5e-3 if "i8" in entry.dtype or entry.kernel == "quantize" else 0.0)
    if error > limit:
        raise AssertionError(f"relative error {error:.2g}, more than {limit:.2g}")
    return error


def made_up(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> list[torch.Tensor]:
    """Arguments: normal floats, truths, whole numbers below 4."""
    rng = np.random.default_rng(seed)
    found = []
    for value in graph.inputs:
        shape = [dims.evaluate(d, sizes) for d in value.tensor.shape]
        dtype = value.tensor.dtype
        high = 2 if dtype.kind == "bool" else 4
        data = rng.standard_normal(shape) if dtype.is_float else rng.integers(0, high, shape)
        found.append(torch.from_numpy(np.asarray(data)).to(to_torch(dtype)))
    return found
