"""Single products beside the best library call, and against the measured peak or bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.check import made_up
from benchmarks.gpu.runners import Runner
from mcomp.backend import CompileOptions, backend_named
from mcomp.backends.triton.making import Making
from mcomp.backends.triton.manifest import I4, I8
from mcomp.ir import Graph, dtypes
from mcomp.ir.dims import Bounds, sym
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Encoding


@dataclass(frozen=True)
class Product:
    """rows x inner times inner x cols. `kind`: the rate of the profile that bounds it; `moved`: bytes, for what bandwidth
    bounds. `goal`: the fraction of the library's speed, or of the bandwidth, that is wanted."""

    name: str
    rows: int
    cols: int
    inner: int
    dtype: DType
    encoding: Encoding
    quantize: bool
    kind: str
    goal: float
    library: Callable[[int, int, int], Callable[[], Any]] | None = None

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.cols * self.inner

    @property
    def moved(self) -> float:
        """Bytes of the weight."""
        bits = {"i4": 4.0 + 32 / 128, "i8": 8.0}.get(self.kind, float(self.dtype.bits))
        return self.cols * self.inner * bits / 8


def _half(dtype: torch.dtype) -> Callable[[int, int, int], Callable[[], Any]]:
    def make(m: int, n: int, k: int) -> Callable[[], Any]:
        a, b = torch.randn(m, k, device="cuda", dtype=dtype), torch.randn(n, k, device="cuda", dtype=dtype)
        return lambda: torch.nn.functional.linear(a, b)

    return make


def _bytes(m: int, n: int, k: int) -> Callable[[], Any]:
    a = torch.randint(-9, 9, (m, k), device="cuda", dtype=torch.int8)
    b = torch.randint(-9, 9, (n, k), device="cuda", dtype=torch.int8)
    return lambda: torch._int_mm(a, b.t())


def _eighths(m: int, n: int, k: int) -> Callable[[], Any]:
    a = torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn)
    b = torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    return lambda: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.float16)


def products(*, small: bool) -> list[Product]:
    """The products that the goals are about."""
    big = 4096 if not small else 32
    one = (1, big, big)
    return [
        Product("fp16", big, big, big, dtypes.f16, DENSE, False, "f16", 1.0, _half(torch.float16)),
        Product("bf16", big, big, big, dtypes.bf16, DENSE, False, "bf16", 1.0, _half(torch.bfloat16)),
        Product("int8", big, big, big, dtypes.f32, I8, True, "i8", 0.85, _bytes),
        Product("fp8", big, big, big, dtypes.f8e4m3, DENSE, False, "f8e4m3", 0.85, _eighths),
        Product("int4 matrix-vector", *one, dtypes.f16, I4 if not small else I8, False, "i4", 0.8),
        Product("int8 matrix-vector", *one, dtypes.f16, I8, False, "i8", 0.8),
        Product("fp16 matrix-vector", *one, dtypes.f16, DENSE, False, "f16", 0.8, _half(torch.float16)),
    ]


def graph_of(product: Product) -> Graph:
    """The product as a graph; bytes are quantized by a kernel before, which is not timed."""
    graph = Graph("product")
    graph.symbols = {"B": Bounds(1)}
    m = Making(graph, None)
    x = m.input((sym("B"), product.inner), product.dtype)
    given = m.op("quantize", x, scale=0.02) if product.quantize else x
    graph.set_outputs([m.op("linear", given, m.const((product.cols, product.inner), product.dtype, product.encoding))])
    return graph


def runner(product: Product) -> Runner:
    """Our kernel on memory of its own, without what surrounds it."""
    from mcomp.backends.triton.executor import TritonExecutable
    from mcomp.backends.triton.frame import Frame, Ready
    from mcomp.backends.triton.program import Launch

    graph = graph_of(product)
    symbols: Mapping[str, int] = {"B": product.rows}
    owner = backend_named("cuda").compile(graph, CompileOptions(hints=symbols))
    assert isinstance(owner, TritonExecutable)
    owner.run(made_up(graph, symbols), symbols)  # compiles, and measures configurations
    last = [s for s in owner.steps(symbols) if isinstance(s, Launch)][-1:]
    frame = Frame(Ready(owner, last, dict(symbols)))
    return Runner(product.name, lambda: frame.only_steps(symbols))
