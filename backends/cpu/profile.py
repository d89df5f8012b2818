"""Measuring this machine with the kernels that models run with."""

from __future__ import annotations

import numpy as np

from mcomp.backend import Backend, CompileOptions, Executable
from mcomp.backends.cpu.isa import choose
from mcomp.backends.cpu.peak import measure_peaks
from mcomp.ir import dtypes
from mcomp.ir.dims import Bounds, sym
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Graph
from mcomp.ir.types import TensorType
from mcomp.plan.profile import DeviceProfile, device_name

_ROWS, _WIDTH = 256, 1024
_CHAIN, _CHAIN_LENGTH = ("mul", "add", "mul", "sub", "mul", "add", "mul", "sub"), 16384
_WORKING_SETS = (32 << 10, 256 << 10, 1 << 20, 8 << 20, 64 << 20)
_TINY = 16
_ROUNDS = 5


def measure(backend: Backend, threads: int) -> DeviceProfile:
    """What the machine can do at most, and rates of our own matrix products in f32, bf16 and int8, of element-wise chains,
    of streaming at several working sets, and the time of a kernel that does nearly nothing. The fastest of several rounds
    counts: other load only slows down."""
    graphs = [_linear(dtypes.f32), _linear(dtypes.bf16), _linear_i8(), _pointwise(_CHAIN), _pointwise(("neg",))]
    ready = [_lowered(backend, graph) for graph in graphs]
    f32, bf16, i8, chain, copy = backend.compile_many(ready, CompileOptions(threads=threads))
    work = 2.0 * _ROWS * _WIDTH * _WIDTH
    rates = (
        ("f32", work / _seconds(f32, _ROWS, _WIDTH)),
        ("bf16", work / _seconds(bf16, _ROWS, _WIDTH)),
        ("i8", work / _seconds(i8, _ROWS, _WIDTH)),
        ("scalar", len(_CHAIN) * _CHAIN_LENGTH / _seconds(chain, _CHAIN_LENGTH)),
    )
    bandwidth = tuple((size, size / _seconds(copy, size // 8)) for size in _WORKING_SETS)
    limits, reads = measure_peaks(choose(None), threads, _WORKING_SETS)
    return DeviceProfile(device_name(), threads, rates, bandwidth, _seconds(copy, _TINY) * 1e6, limits, reads)


def _lowered(backend: Backend, graph: Graph) -> Graph:
    from mcomp.manager.run import PassManager

    PassManager(backend.pipeline()).run(graph)
    return graph


def _linear(dtype: DType) -> Graph:
    """x[N, 1024] times a weight, in `dtype`; the input is f32."""
    graph = _graph("linear")
    x = graph.add_input("x", TensorType((sym("N"), _WIDTH), dtypes.f32))
    ones = np.ones((_WIDTH, _WIDTH), np.float32)
    with graph.edit("profile") as edit:
        weight = edit.const(
            dtypes.f32_to_bf16(ones) if dtype is dtypes.bf16 else ones, name="w",
            type=TensorType((_WIDTH, _WIDTH), dtype),
        )
        given = x if dtype is dtypes.f32 else edit.add("cast", [x], {"dtype": dtype}).result
        result = edit.add("linear", [given, weight]).result
    graph.set_outputs([result])
    return graph


def _linear_i8() -> Graph:
    """x[N, 1024], quantized with a known scale, times an int8 weight."""
    graph = _graph("linear_i8")
    x = graph.add_input("x", TensorType((sym("N"), _WIDTH), dtypes.f32))
    encoding = Affine(dtypes.i8, axis=(0,))
    parts: dict[str, np.ndarray] = {"values": np.ones((_WIDTH, _WIDTH), np.int8), "scales": np.ones((_WIDTH, 1), np.float32)}
    with graph.edit("profile") as edit:
        weight = edit.const(
            parts["values"], parts=parts, name="w", type=TensorType((_WIDTH, _WIDTH), dtypes.f32, encoding)
        )
        given = edit.add("quantize", [x], {"dtype": dtypes.u8, "scale": 0.02, "zero": 128}).result
        result = edit.add("linear", [given, weight]).result
    graph.set_outputs([result])
    return graph


def _pointwise(ops: tuple[str, ...]) -> Graph:
    """A chain of element-wise operators over f32[N]."""
    graph = _graph("pointwise")
    x = graph.add_input("x", TensorType((sym("N"),), dtypes.f32))
    value = x
    with graph.edit("profile") as edit:
        for op in ops:
            value = edit.add(op, [value] if op == "neg" else [value, x]).result
    graph.set_outputs([value])
    return graph


def _graph(name: str) -> Graph:
    graph = Graph(name)
    graph.symbols["N"] = Bounds(1)
    return graph


def _seconds(executable: Executable, *shape: int) -> float:
    """Seconds of the slowest kernel: the one that the graph is about."""
    x = np.full(shape, 0.5, np.float32)
    rounds = [max(executable.profile([x], {"N": shape[0]}, repeats=5)) for _ in range(_ROUNDS)]
    return max(min(rounds), 1e-3) * 1e-6
