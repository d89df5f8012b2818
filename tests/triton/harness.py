"""What the tests of the Triton backend share: graphs, compiled for the interpreter and compared with the reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions, backend_named
from mcomp.backends.triton.making import scaled
from mcomp.ir import Graph, TensorType, WeightStore, dtypes, parse_graph
from mcomp.ir import dims as D
from mcomp.ir.binding import bind_inputs
from mcomp.ir.dims import Bounds, sym
from mcomp.ir.dtypes import DType, to_torch
from mcomp.ir.encoding import DENSE, Affine, BlockSparse, Encoding, Scaled, quantize_array
from mcomp.ir.graph import Value
from mcomp.ir.parser import parse_type
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
TOLERANCE = {"f32": 3e-6, "f16": 2e-3, "bf16": 1.2e-2}
"""Relative L2 error by element type: sums in another order, and results rounded once instead of after every operator."""
_CODED = re.compile(r"const @(\w+)#int8 : ([^\n]*)")


class Made:
    """A graph in the making: symbolic batch `B`, random constants of any encoding."""

    def __init__(self, seed: int = 0) -> None:
        self.graph = Graph("made")
        self.graph.symbols = {"B": Bounds(1)}
        self.rng = np.random.default_rng(seed)

    def input(self, shape: Sequence[D.Dim], dtype: DType = dtypes.f32) -> Value:
        return self.graph.add_input("x", TensorType(tuple(shape), dtype))

    def const(self, shape: Sequence[int], dtype: DType = dtypes.f32, encoding: Encoding = DENSE,
              scale: float = 1.0) -> Value:
        values = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        type = TensorType(tuple(shape), dtype, encoding)
        with self.graph.edit("made") as e:
            if isinstance(encoding, Affine):
                parts = _affine(values, encoding, self.rng)
                return e.const(parts["values"], type=type, parts=parts, name="w")
            if isinstance(encoding, Scaled):
                parts = scaled(values, encoding)
                return e.const(parts["values"], type=type, parts=parts, name="w")
            if isinstance(encoding, BlockSparse):
                parts, type = _blocks(values, type, encoding, self.rng)
                return e.const(parts["values"], type=type, parts=parts, name="w")
            stored = torch.from_numpy(values).to(to_torch(dtype))
            from mcomp.ops.encoded import array_of

            return e.const(array_of(stored), type=type, name="w")

    def op(self, name: str, *operands: Value | None, **attrs: object) -> Value:
        with self.graph.edit("made") as e:
            return e.add(name, list(operands), attrs).results[0]


def _affine(values: np.ndarray, encoding: Affine, rng: np.random.Generator) -> dict[str, np.ndarray]:
    zeros = None
    if encoding.zero_point:
        low, high = encoding.range
        kept = [int(D.evaluate(d, {})) for d in encoding.scale_shape(values.shape)]
        zeros = rng.integers(low, high + 1, kept).astype(np.int32)
    return quantize_array(values, encoding, zeros=zeros)


def _blocks(
    values: np.ndarray, type: TensorType, encoding: BlockSparse, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], TensorType]:
    """A random half of the blocks; one row of blocks is empty."""
    height, width = encoding.block
    rows, columns = values.shape[0] // height, values.shape[1] // width
    kept = rng.random((rows, columns)) < 0.5
    kept[0] = False
    stored = values.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)[kept]
    parts = {"columns": np.nonzero(kept)[1].astype(np.int32),
             "rows": np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)}
    inner = encoding.inner
    if isinstance(inner, Affine):
        coded = quantize_array(values, inner)
        parts |= {"scales": coded["scales"]}
        whole = coded["values"].reshape(rows, height, columns, width).transpose(0, 2, 1, 3)[kept]
        parts["values"] = np.ascontiguousarray(whole)
    else:
        dtype = np.float16 if type.dtype is dtypes.f16 else np.float32
        parts["values"] = np.ascontiguousarray(stored.astype(dtype))
    found = BlockSparse(encoding.block, int(kept.sum()), inner)
    return parts, type.with_encoding(found)


def made(
    make: Callable[[Made], Sequence[Value]], seed: int = 0, *, fuse: bool = True, fusion: str = "fuse"
) -> Graph:
    """The graph of a function, after the pass that fuses."""
    m = Made(seed)
    m.graph.set_outputs(list(make(m)))
    if fuse:
        PassManager(fusion).run(m.graph)
    return m.graph


def graph_of(text: str) -> Graph:
    """A graph from text. Beside what the parser generates, `const @w#int8 : <affine type>` makes quantized weights."""
    store = WeightStore()

    def coded(match: re.Match[str]) -> str:
        type = parse_type(match.group(2).split(" loc(")[0])
        assert isinstance(type, TensorType) and isinstance(type.encoding, Affine)
        rng = np.random.default_rng(sum(match.group(1).encode()))
        parts = quantize_array(rng.standard_normal(type.static_shape).astype(np.float32), type.encoding)
        return f"const @{match.group(1)}#{store.add(type, parts).digest} : {match.group(2)}"

    return parse_graph(_CODED.sub(coded, text), store, generate=True)


def inputs_of(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> list[torch.Tensor]:
    """Normal floats, truths with every row different, small whole numbers."""
    rng = np.random.default_rng(seed)
    found = []
    for value in graph.inputs:
        shape = [D.evaluate(d, sizes) for d in value.tensor.shape]
        dtype = value.tensor.dtype
        if dtype.kind == "bool":
            found.append(torch.from_numpy(rng.integers(0, 2, shape).astype(bool)))
        elif dtype.is_int:
            found.append(torch.from_numpy(rng.integers(0, 4, shape)).to(to_torch(dtype)))
        else:
            found.append(torch.from_numpy(rng.standard_normal(shape)).to(to_torch(dtype)))
    return found


def compiled(graph: Graph, context: Context | None = None) -> Any:
    """The executable of a graph."""
    return backend_named("cuda").compile(graph, CompileOptions(), context)


def check(graph: Graph, sizes: Mapping[str, int] | None = None, *, tolerance: float | None = None, seed: int = 0) -> Any:
    """Run, twice, and compare with the reference by relative L2 error; returns the executable."""
    executable = compiled(graph)
    given = inputs_of(graph, sizes or {"B": 3}, seed)
    symbols = bind_inputs(graph, given)
    expected = run_graph(graph, given)
    for call in range(2):
        for i, (a, b) in enumerate(zip(executable.run(given, symbols), expected, strict=True)):
            close(a, b, tolerance, f"result {i}, call {call} of\n{graph}")
    return executable


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None, what: str = "") -> None:
    """Fail unless two tensors agree: floats by relative L2 error, others exactly."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    if not expected.is_floating_point():
        assert torch.equal(found, expected), what
        return
    assert torch.equal(found.isnan(), expected.isnan()), f"NaN moved: {what}"
    a, b = found.double().nan_to_num(), expected.double().nan_to_num()
    error = float(torch.linalg.vector_norm(a - b) / max(float(torch.linalg.vector_norm(b)), 1e-30))
    limit = tolerance if tolerance is not None else TOLERANCE[dtypes.from_torch(expected.dtype).name]
    assert error <= limit, f"relative error {error:.3g}, more than {limit}: {what}"


def kinds(executable: Any, **symbols: int) -> list[str]:
    """What kinds of kernels run, in order; torch's by operator."""
    return [getattr(step, "kind", None) or f"torch:{step.node.op.name}" for step in executable.steps(symbols)]


B = sym("B")
