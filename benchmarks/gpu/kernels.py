"""Single products beside the best library call, and against the measured peak or bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.check import made_up
from benchmarks.gpu.runners import OURS, Runner
from mcomp.backend import CompileOptions, backend_named
from mcomp.backends.triton.making import Making
from mcomp.backends.triton.manifest import F8, I4, I8
from mcomp.ir import Graph, dtypes
from mcomp.ir.dims import Bounds, sym
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Encoding

CHECKED = 64
"""Rows of a result that are compared with exact sums."""
Made = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]
"""What runs a product of a library, and what gives the first rows of exact sums over its operands."""


@dataclass(frozen=True)
class Product:
    """rows x inner times inner x cols. `coded`: what its first operand is quantized to, where it is. `kind`: the rate of the
    profile that bounds it. `goal`: the fraction of the library's speed, or of the bandwidth, that is wanted."""

    name: str
    rows: int
    cols: int
    inner: int
    dtype: DType
    encoding: Encoding
    coded: DType | None
    kind: str
    goal: float
    library: Callable[[int, int, int, str], Made] | None = None

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.cols * self.inner

    @property
    def moved(self) -> float:
        """Bytes of the weight."""
        bits = {"i4": 4.0 + 32 / 128, "i8": 8.0, "f8e4m3": 8.0}.get(self.kind, float(self.dtype.bits))
        return self.cols * self.inner * bits / 8


def _half(dtype: torch.dtype) -> Callable[[int, int, int, str], Made]:
    def make(m: int, n: int, k: int, device: str) -> Made:
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(n, k, device=device, dtype=dtype)
        return lambda: torch.nn.functional.linear(a, b), lambda: a[:CHECKED].double() @ b.double().t()

    return make


def _bytes(m: int, n: int, k: int, device: str) -> Made:
    a = torch.randint(-9, 9, (m, k), device=device, dtype=torch.int8)
    b = torch.randint(-9, 9, (n, k), device=device, dtype=torch.int8)
    return lambda: torch._int_mm(a, b.t()), lambda: a[:CHECKED].double() @ b.double().t()


def _eighths(m: int, n: int, k: int, device: str) -> Made:
    a = torch.randn(m, k, device=device).to(torch.float8_e4m3fn)
    b = torch.randn(n, k, device=device).to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    return (lambda: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16),
            lambda: a[:CHECKED].double() @ b.double().t())


def products(*, small: bool) -> list[Product]:
    """The products that the goals are about. Matrices of single rows are larger than a chip's second cache, too: there the
    memory's bandwidth is what counts."""
    found: list[Product] = []
    for big in (4096, 8192) if not small else (32,):
        found += [
            Product("fp16", big, big, big, dtypes.f16, DENSE, None, "f16", 1.0, _half(torch.float16)),
            Product("bf16", big, big, big, dtypes.bf16, DENSE, None, "bf16", 1.0, _half(torch.bfloat16)),
            Product("int8", big, big, big, dtypes.f16, I8, dtypes.i8, "i8", 0.85, _bytes),
            Product("fp8", big, big, big, dtypes.bf16, F8, dtypes.f8e4m3, "f8e4m3", 0.85, _eighths),
        ]
    for big in (4096, 16384) if not small else (128,):
        found += [
            Product("int4 matrix-vector", 1, big, big, dtypes.f16, I4, None, "i4", 0.8),
            Product("int8 matrix-vector", 1, big, big, dtypes.f16, I8, None, "i8", 0.8),
            Product("fp16 matrix-vector", 1, big, big, dtypes.f16, DENSE, None, "f16", 0.8, _half(torch.float16)),
        ]
    return found


def graph_of(product: Product) -> Graph:
    """The product as a graph; what it quantizes is quantized by a kernel before, which is not timed."""
    graph = Graph("product")
    graph.symbols = {"B": Bounds(1)}
    m = Making(graph, np.random.default_rng(0))
    x = m.input((sym("B"), product.inner), product.dtype)
    given = x if product.coded is None else m.op("quantize", x, scale=0.03, dtype=product.coded)
    graph.set_outputs([m.op("linear", given, m.const((product.cols, product.inner), product.dtype, product.encoding))])
    return graph


def ours(product: Product) -> tuple[Runner, float]:
    """Our kernel on memory of its own, without what surrounds it, and the error of the first rows of a whole run."""
    from mcomp.backends.triton.executor import TritonExecutable
    from mcomp.backends.triton.frame import Frame, Ready
    from mcomp.backends.triton.program import Launch

    graph = graph_of(product)
    symbols: Mapping[str, int] = {"B": product.rows}
    owner = backend_named("cuda").compile(graph, CompileOptions(hints=symbols))
    assert isinstance(owner, TritonExecutable)
    inputs = made_up(graph, symbols)
    found = owner.run(inputs, symbols)[0]  # compiles, and measures configurations
    last = [s for s in owner.steps(symbols) if isinstance(s, Launch)][-1:]
    frame = Frame(Ready(owner, last, dict(symbols)))
    frame.symbols = dict(symbols)
    for _, buffer, _ in last[0].pointers:
        if buffer.kind != "const":
            _fill(frame.memory(buffer))
    error = relative_error(torch.as_tensor(found)[:CHECKED], exact(graph, [x[:CHECKED] for x in inputs]))
    return Runner(OURS, lambda: frame.only_steps(symbols)), error


def theirs(product: Product, device: str) -> tuple[Runner, float]:
    """The library's kernel on random numbers, and the error of its first rows."""
    assert product.library is not None
    call, wanted = product.library(product.rows, product.cols, product.inner, device)
    return Runner("library", call), relative_error(call()[:CHECKED], wanted())


def exact(graph: Graph, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The result of a graph of one product: sums in f64 over its operands as they are stored."""
    from mcomp.ops.encoded import decoded
    from mcomp.ops.evaluate import run_graph

    held: dict[Any, Any] = dict(zip(graph.inputs, inputs))
    run_graph(graph, inputs, observe=lambda node, results: held.update(zip(node.results, results)))
    node = next(n for n in graph.nodes if n.op.name == "linear")
    x, w = (decoded(held[v]).double() for v in node.operands[:2])
    return x @ w.t()


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    a, b = found.detach().double().cpu(), wanted.double().cpu()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def _fill(memory: torch.Tensor) -> None:
    """Numbers like those of a run: how fast a chip multiplies depends on them."""
    if memory.dtype.is_floating_point:
        memory.copy_(torch.randn(memory.shape, device=memory.device))
    else:
        memory.random_(-40, 40) if memory.dtype.is_signed else memory.random_(88, 168)
