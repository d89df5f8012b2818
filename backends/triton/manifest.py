"""Every kernel by element type, encoding and architecture, each with a graph that needs it: what is compiled ahead of time
to see that all of it compiles well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mcomp.backends.triton.expressions import RULES
from mcomp.backends.triton.making import Making
from mcomp.ir import dtypes
from mcomp.ir.dims import Bounds, sym
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Affine, BlockSparse, Encoding, Scaled
from mcomp.ir.graph import Graph, Value
from mcomp.ops import op_named
from mcomp.ops.elementwise import ElementWise

AMPERE, HOPPER = 80, 90
BOTH = (AMPERE, HOPPER)
Make = Callable[[Making], Sequence[Value]]


@dataclass(frozen=True)
class Entry:
    """A kernel kind for an element type and an encoding on some architectures. `make` builds a graph that needs it at the
    sizes `symbols`. `dot`: whether tensor cores must be used. `often`: whether every test run compiles it."""

    kernel: str
    dtype: str
    encoding: str
    make: Make
    symbols: Mapping[str, int] = field(default_factory=lambda: {"B": 512})
    archs: tuple[int, ...] = BOTH
    dot: bool = False
    often: bool = False

    @property
    def id(self) -> str:
        return "-".join(p for p in (self.kernel, self.dtype, self.encoding) if p)

    def graph(self, seed: int | None = None, width: int = 1024) -> Graph:
        """The graph; its constants are zeros, or random with a seed. `width`: features of products; a multiple of 128."""
        graph = Graph("manifest")
        graph.symbols = {s: Bounds(1) for s in self.symbols}
        making = Making(graph, None if seed is None else np.random.default_rng(seed), width)
        graph.set_outputs(list(self.make(making)))
        return graph


B = sym("B")
HALVES = (dtypes.f16, dtypes.bf16)
FLOATS = (dtypes.f32, *HALVES)
F8 = Scaled(axis=(0,))
I8, I4 = Affine(dtypes.i8, axis=(0,)), Affine(dtypes.i4, axis=(0,), group=128)
I8_GROUPS = Affine(dtypes.i8, axis=(0,), group=64)


def entries() -> list[Entry]:
    """The whole manifest."""
    return [*_products(), *_windows(), *_attention(), *_rows(), *_pointwise(), *_moves()]


Stored = Encoding | Callable[[int], Encoding]


def _linear(dtype: DType, encoding: Stored = DENSE, *, tail: bool = True) -> Make:
    def make(m: Making) -> list[Value]:
        n = m.width
        how = encoding if isinstance(encoding, Encoding) else encoding(n)
        y = m.op("linear", m.input((B, n), dtype), m.const((n, n), dtype, how), m.const((n,), dtype))
        return [m.op("add", m.op("gelu", y), m.input((B, n), dtype))] if tail else [y]

    return make


def _deep(dtype: DType, encoding: Stored = DENSE) -> Make:
    """Few outputs of many inputs."""
    def make(m: Making) -> list[Value]:
        n, k = m.width // 4, 4 * m.width
        how = encoding if isinstance(encoding, Encoding) else encoding(n)
        y = m.op("linear", m.input((B, k), dtype), m.const((n, k), dtype, how), m.const((n,), dtype))
        return [m.op("add", m.op("gelu", y), m.input((B, n), dtype))]

    return make


def _bytes(static: bool, requantized: bool, weight: Callable[[int], Encoding] = lambda width: I8) -> Make:
    def make(m: Making) -> list[Value]:
        n = m.width
        how: dict[str, object] = {"scale": 0.02, "dtype": dtypes.u8, "zero": 128} if static else {}
        given = m.op("quantize", m.input((B, n)), **how)
        y = m.op("relu", m.op("linear", given, m.const((n, n), dtypes.f32, weight(n)), m.const((n,))))
        return [m.op("decode", m.op("quantize", y, scale=0.05))] if requantized else [y]

    return make


def _floats(static: bool, requantized: bool = False) -> Make:
    def make(m: Making) -> list[Value]:
        n = m.width
        how: dict[str, object] = {"scale": 0.02} if static else {}
        given = m.op("quantize", m.input((B, n), dtypes.bf16), dtype=dtypes.f8e4m3, **how)
        y = m.op("relu", m.op("linear", given, m.const((n, n), dtypes.bf16, F8), m.const((n,), dtypes.bf16)))
        return [m.op("decode", m.op("quantize", y, dtype=dtypes.f8e4m3, scale=0.05))] if requantized else [y]

    return make


def _pair(dtype: DType) -> Make:
    def make(m: Making) -> list[Value]:
        n = m.width
        inner = m.op("linear", m.input((B, n), dtype), m.const((64, n), dtype))
        return [m.op("gelu", m.op("linear", inner, m.const((n, 64), dtype), m.const((n,), dtype)))]

    return make


def _computed(dtype: DType) -> Make:
    """Rows that are computed from two others on the way to a few outputs."""
    def make(m: Making) -> list[Value]:
        n = m.width
        gate = m.op("silu", m.input((B, n), dtype))
        rows = m.op("mul", gate, m.input((B, n), dtype))
        return [m.op("gelu", m.op("linear", rows, m.const((128, n), dtype), m.const((128,), dtype)))]

    return make


def _tall_blocks(width: int) -> Encoding:
    return BlockSparse((16, 4), width * width // 512)


def _wide_blocks(width: int) -> Encoding:
    return BlockSparse((32, 16), width * width // 2048, I8)


def _products() -> list[Entry]:
    one = {"B": 1}
    found = []
    for d in FLOATS:
        name, dot = d.name, d.bits == 16
        found += [
            Entry("linear", name, "", _linear(d), dot=dot, often=d is not dtypes.bf16),
            Entry("vector", name, "", _linear(d), one, often=d is dtypes.f16),
            Entry("linear_i4", name, "i4", _linear(d, I4), dot=dot, often=d is dtypes.f16),
            Entry("vector_i4", name, "i4", _linear(d, I4), one, often=d is dtypes.f16),
            Entry("linear_i4", name, "u4 zeros", _linear(d, Affine(dtypes.u4, axis=(0,), group=64, zero_point=True)),
                  dot=dot),
            Entry("linear_i8_weight", name, "i8", _linear(d, I8), dot=dot, often=d is dtypes.bf16),
            Entry("vector_i8_weight", name, "i8", _linear(d, I8), one),
            Entry("linear_grouped", name, "i8 groups", _linear(d, I8_GROUPS), dot=dot),
            Entry("vector_grouped", name, "i8 groups", _linear(d, I8_GROUPS), one),
            Entry("pair", name, "", _pair(d), dot=dot, often=d is dtypes.f16),
            Entry("linear_computed", name, "", _computed(d), dot=dot, often=d is dtypes.f16),
            Entry("vector_computed", name, "", _computed(d), one, often=d is dtypes.bf16),
            Entry("matmul", name, "", lambda m, d=d: [  # type: ignore[misc]
                m.op("matmul", m.input((B, 8, 256, 64), d), m.input((B, 8, 64, 256), d))], {"B": 4}, dot=dot,
                often=d is dtypes.f16),
            Entry("blocksparse", name, "blocks 16x4", _linear(d, _tall_blocks), dot=dot,
                  often=d is dtypes.f16),
        ]
    return [
        *found, Entry("linear", "f8e4m3", "", _linear(dtypes.f8e4m3, tail=False), archs=(HOPPER,), dot=True),
        Entry("linear_split", "f16", "", _deep(dtypes.f16), {"B": 16}, dot=True, often=True),
        Entry("vector_split", "bf16", "", _deep(dtypes.bf16), one),
        Entry("linear_i4_split", "bf16", "i4", _deep(dtypes.bf16, I4), {"B": 16}, dot=True),
        Entry("vector_i4_split", "f16", "i4", _deep(dtypes.f16, I4), one, often=True),
        Entry("vector_i8_weight_split", "f16", "i8", _deep(dtypes.f16, I8), one),
        Entry("linear_i8_weight_split", "f16", "i8", _deep(dtypes.f16, I8), {"B": 16}, dot=True),
        Entry("linear_grouped_split", "f16", "i8 groups", _deep(dtypes.f16, I8_GROUPS), {"B": 16}, dot=True),
        Entry("vector_grouped_split", "f16", "i8 groups", _deep(dtypes.f16, I8_GROUPS), one),
        Entry("linear_f8_weight_split", "bf16", "f8", _deep(dtypes.bf16, F8), {"B": 16}, archs=(HOPPER,), dot=True),
        Entry("vector_f8_weight_split", "bf16", "f8", _deep(dtypes.bf16, F8), one, archs=(HOPPER,)),
        Entry("split_sum", "f16", "", _deep(dtypes.f16), {"B": 16}),
        Entry("linear_f8", "f8e4m3", "static", _floats(True), archs=(HOPPER,), dot=True),
        Entry("linear_f8", "f8e4m3", "static requantized", _floats(True, True), archs=(HOPPER,), dot=True),
        Entry("linear_f8", "f8e4m3", "dynamic", _floats(False), archs=(HOPPER,), dot=True, often=True),
        Entry("linear_f8_weight", "bf16", "f8", _linear(dtypes.bf16, F8), archs=(HOPPER,), dot=True, often=True),
        Entry("vector_f8_weight", "bf16", "f8", _linear(dtypes.bf16, F8), one, archs=(HOPPER,)),
        Entry("quantize", "f16", "f8", lambda m: [
            m.op("decode", m.op("quantize", m.input((B, 768), dtypes.f16), dtype=dtypes.f8e4m3))], archs=(HOPPER,)),
        Entry("blocksparse_i8", "f16", "blocks 32x16 of i8", _linear(dtypes.f16, _wide_blocks), dot=True),
        Entry("blocksparse_bytes", "u8", "blocks 32x16, static", _bytes(True, False, _wide_blocks), dot=True, often=True),
        Entry("blocksparse_bytes", "i8", "blocks 32x16, dynamic", _bytes(False, False, _wide_blocks), dot=True),
        Entry("linear_i8", "i8", "static", _bytes(True, False), dot=True, often=True),
        Entry("linear_i8", "i8", "static requantized", _bytes(True, True), dot=True),
        Entry("linear_i8", "i8", "dynamic", _bytes(False, False), dot=True, often=True),
    ]


def _conv(dtype: DType, *, groups: int = 1, channels: int = 64, kernel: int = 3, bytes_: bool = False,
          op: str = "conv") -> Make:
    def make(m: Making) -> list[Value]:
        x = m.input((B, channels, 28, 28), dtype)
        attrs: dict[str, object] = {"stride": (1, 1), "dilation": (1, 1), "groups": groups}
        attrs["padding"] = ((1, 1), (1, 1)) if op == "conv" else (1, 1)
        if op != "conv":
            attrs["output_padding"] = (0, 0)
        w = m.const((channels, channels // groups, kernel, kernel), dtype, I8 if bytes_ else DENSE)
        given = m.op("quantize", x, scale=0.02, dtype=dtypes.u8, zero=128) if bytes_ else x
        return [m.op("relu", m.op(op, given, w, m.const((channels,), dtype), **attrs))]

    return make


def _windows() -> list[Entry]:
    four = {"B": 4}
    found = []
    for d in FLOATS:
        dot = d.bits == 16
        found += [
            Entry("conv", d.name, "", _conv(d), four, dot=dot, often=d is dtypes.f16),
            Entry("conv", d.name, "groups", _conv(d, groups=2), four, dot=dot),
            Entry("depthwise", d.name, "", _conv(d, groups=64), four, often=d is dtypes.f16),
            Entry("conv_transpose", d.name, "", _conv(d, op="conv_transpose"), four, dot=dot),
        ]
    pool: dict[str, object] = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))}
    image = (B, 64, 28, 28)
    return [
        *found, Entry("conv_i8", "i8", "static", _conv(dtypes.f32, bytes_=True), four, dot=True, often=True),
        Entry("depthwise_i8", "i8", "static", _conv(dtypes.f32, groups=64, bytes_=True), four),
        Entry("pool", "f16", "", lambda m: [
            m.op("max_pool", m.input(image, dtypes.f16), **pool, dilation=(1, 1)),
            m.op("avg_pool", m.input(image, dtypes.f16), **pool),
            m.op("adaptive_avg_pool", m.input(image, dtypes.f16), size=(1, 1)),
            m.op("adaptive_max_pool", m.input(image, dtypes.f16), size=(1, 1)),
        ], four),
    ]


def _attention() -> list[Entry]:
    found = []
    for d in FLOATS:
        for causal in (False, True):
            def make(m: Making, d: DType = d, causal: bool = causal) -> list[Value]:
                q = m.input((B, 8, sym("S"), 64), d)
                k, v = (m.input((B, 2 if causal else 8, sym("S"), 64), d) for _ in range(2))
                mask = None if causal else m.input((B, 1, 1, sym("S")), dtypes.bool_)
                return [m.op("attention", q, k, v, mask, causal=causal, grouped=causal)]

            found.append(Entry("attention", d.name, "causal, grouped" if causal else "mask", make, {"B": 4, "S": 256},
                               dot=d.bits == 16, often=d is dtypes.f16 and causal))
        found.append(Entry("attention", d.name, "wide heads", lambda m, d=d: [  # type: ignore[misc]
            m.op("attention", *(m.input((B, 4, 128, 128), d) for _ in range(3)), m.input((B, 4, 128, 128), d))],
            {"B": 4}, dot=d.bits == 16))
    return found


def _rows() -> list[Entry]:
    found = []
    for d in FLOATS:
        for name, attrs in (("layer_norm", {"axes_count": 1, "eps": 1e-5}), ("rms_norm", {"axes_count": 1, "eps": 1e-5}),
                            ("softmax", {"axis": 1}), ("log_softmax", {"axis": 1})):
            for width, form in ((768, name), (32768, f"{name}_pieces")):
                def make(m: Making, d: DType = d, name: str = name, attrs: Mapping[str, object] = attrs,
                         width: int = width) -> list[Value]:  # type: ignore[assignment]
                    weights = {"layer_norm": 2, "rms_norm": 1}.get(name, 0)
                    return [m.op(name, m.input((B, width), d), *(m.const((width,), d) for _ in range(weights)), **attrs)]

                found.append(Entry(form, d.name, "", make, often=d is dtypes.f16 and name in ("layer_norm", "softmax")))
        for size, form in ((4, "group_norm"), (64, "group_norm_pieces")):
            found.append(Entry(form, d.name, "", lambda m, d=d, size=size: [  # type: ignore[misc]
                m.op("group_norm", m.input((B, 64, size, size), d), m.const((64,), d), m.const((64,), d), groups=8,
                     eps=1e-5)]))
    reductions = ("sum", "mean", "amax", "amin", "prod", "var", "std", "norm", "logsumexp")
    return [
        *found,
        *(Entry("reduce", d.name, "", lambda m, d=d: [  # type: ignore[misc]
            m.op(r, m.input((B, 1024), d), axes=(1,)) for r in reductions]) for d in FLOATS),
        Entry("reduce", "bool", "",
              lambda m: [m.op(r, m.input((B, 1024), dtypes.bool_), axes=(0,)) for r in ("all", "any")]),
        Entry("reduce", "f32", "indices", lambda m: [
            *(m.op(r, m.input((B, 1024)), axis=1) for r in ("argmax", "argmin", "max_with_index", "min_with_index"))]),
        Entry("layer_norm", "bf16", "f8 dynamic", lambda m: [m.op("decode", m.op(
            "quantize", m.op("layer_norm", m.input((B, 768), dtypes.bf16), axes_count=1, eps=1e-5), dtype=dtypes.f8e4m3))],
            archs=(HOPPER,), often=True),
        Entry("quantize", "f32", "dynamic", lambda m: [m.op("decode", m.op("quantize", m.input((B, 768))))], often=True),
        Entry("quantize", "f16", "zero points", lambda m: [
            m.op("decode", m.op("quantize", m.input((B, 768), dtypes.f16), dtype=dtypes.u8, zero_point=True))]),
    ]


_ATTRS: Mapping[str, Mapping[str, object]] = {
    "cast": {"dtype": dtypes.f16}, "threshold": {"threshold": 0.1, "value": 1.0},
}


def _operator(name: str, dtype: DType) -> Make:
    def make(m: Making) -> list[Value]:
        op = op_named(name)
        assert isinstance(op, ElementWise)
        kinds = [dtype] * op.arity
        if name == "where":
            kinds[0] = dtypes.bool_
        if name == "lerp":
            kinds = [dtype] * 3
        return [m.op(name, *(m.input((B, 64), k) for k in kinds), **_ATTRS.get(name, {}))]

    return make


def _pointwise() -> list[Entry]:
    """One entry for each operator, in the first element type that it accepts and kernels compute."""
    found = []
    for name in RULES:
        op = op_named(name)
        assert isinstance(op, ElementWise)
        kind = next(d for d in (dtypes.f32, dtypes.i32, dtypes.bool_, dtypes.complex64) if d in op.accepts)
        if kind is not dtypes.complex64:
            found.append(Entry("pointwise", kind.name, name, _operator(name, kind), often=name in ("gelu", "pow", "atan2")))
    chain: Make = lambda m: [m.op("mul", m.op("silu", m.input((B, 64), dtypes.bf16)), m.input((B, 64), dtypes.bf16))]  # noqa: E731
    return [*found, Entry("pointwise", "bf16", "chain", chain, often=True)]


def _moves() -> list[Entry]:
    table, image = (1000, 64), (B, 8, 10, 12)

    def views(m: Making) -> list[Value]:
        x = m.input(image)
        return [
            m.op("permute", x, order=(0, 2, 3, 1)), m.op("slice", x, axis=1, start=1, stop=5),
            m.op("select", x, axis=1, index=2),
            m.op("squeeze", m.op("unsqueeze", x, axes=(1,)), axes=(1,)), m.op("expand", m.input((1, 8, 1, 12)), shape=image),
            m.op("reshape", m.op("permute", x, order=(0, 2, 3, 1)), shape=(B, 960)), m.op("split", x, axis=1, sizes=(3, 5)),
            m.op("unfold", x, axis=3, size=4, step=2), m.op("diagonal", x, offset=0, axis1=2, axis2=3),
            m.op("contiguous", x), m.op("dropout", x),
        ]

    def copies(m: Making) -> list[Value]:
        x = m.input(image)
        return [
            m.op("flip", x, axes=(1,)), m.op("cat", x, x, axis=1), m.op("repeat", x, repeats=(1, 2, 1, 1)),
            m.op("repeat_interleave", x, repeats=2, axis=1), m.op("roll", x, shifts=(1,), axes=(2,)),
            m.op("slice_scatter", x, m.input((B, 2, 10, 12)), axis=1, start=0, stop=2),
            m.op("select_scatter", x, m.input((B, 10, 12)), axis=1, index=0),
            m.op("full", value=1.5, shape=(B, 4)), m.op("tril", x), m.op("triu", x), m.op("arange", length=B),
            m.op("pad", x, low=(0, 0, 1, 1), high=(0, 0, 1, 1)),
            m.op("pad", x, low=(0, 0, 1, 1), high=(0, 0, 1, 1), mode="reflect"),
        ]

    def reads(m: Making) -> list[Value]:
        i = m.input((B, 16), dtypes.i64)
        return [
            m.op("embedding", m.const(table, dtypes.f16), i), m.op("gather", m.input((B, 64)), i, axis=1),
            m.op("take", m.input((B, 64)), m.input((16,), dtypes.i64), axis=1),
            m.op("index", m.input((64, B)), i, axes=(0,)),
        ]

    return [
        Entry("copy", "f32", "views", views, {"B": 4}), Entry("copy", "f32", "moves", copies, {"B": 4}, often=True),
        Entry("index", "f32", "", reads, {"B": 4}, often=True),
        *(Entry("index", "f16", f"{name} table", lambda m, how=how: [  # type: ignore[misc]
            m.op("embedding", m.const((1000, 256), dtypes.f16, how), m.input((B, 16), dtypes.i64))], {"B": 4}, often=True)
            for name, how in (("i8", I8), ("i4", I4))),
        Entry("pointwise", "f16", "rope", lambda m: [
            m.op("rope", m.input((B, 8, 32, 64), dtypes.f16), *(m.input((1, 1, 32, 64), dtypes.f16) for _ in range(2)))],
            {"B": 4}),
        Entry("pointwise", "f32", "prelu and batch norm", lambda m: [
            m.op("prelu", m.input(image), m.const((8,))),
            m.op("batch_norm", m.input(image), m.const((8,)), m.op("abs", m.input((8,))), m.const((8,)), eps=1e-5)],
            {"B": 4}),
    ]
