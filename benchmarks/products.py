"""Products with compressed weights beside the dense one: block-sparse, weight-only and bfloat16, on one thread; pairs of
products as one kernel beside two.

    python -m benchmarks.products                                  # 128 rows, 384 to 4096 inputs and outputs
    python -m benchmarks.products --rows 1 --sizes 1024x4096,4096x4096
    python -m benchmarks.products --pairs 128x384x96x1536 --threads 2          # rows x inputs x rank x outputs

Compiled graphs run in turns in one process. Times of products are those of their kernels alone, which take and give bytes
where weights and inputs are bytes; times of pairs are of the whole graph: CPU time of the thread, elapsed time with more
than one. The least of many counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mcomp.backend import CompileOptions, Executable
from mcomp.backends.cpu import BACKEND
from mcomp.ir import DENSE, Affine, BlockSparse, Encoding, TensorType, WeightStore, dtypes, parse_graph
from mcomp.ir.encoding import Parts, quantize_array
from mcomp.manager import PassManager

_COPIES = 8
"""Products in one graph, so that the call itself weighs little."""


@dataclass(frozen=True)
class Variant:
    """A way to store and multiply weights; `base` names the variant that it is compared with."""

    name: str
    base: str
    inner: Encoding = DENSE
    block: tuple[int, int] | None = None
    zeros: float = 0.0
    quantized: bool = False
    dtype: dtypes.DType = dtypes.f32


PAIRS = ("f32", "i8", "i8, a scale per row")
"""Kinds of pairs of products, by what lies between the two."""
_I8 = Affine(axis=(0,))
VARIANTS = (
    Variant("f32", "f32"),
    *(Variant(f"f32 {b[0]}x{b[1]}, {z:.0%} zero", "f32", block=b, zeros=z)
      for b in ((32, 8), (32, 1), (16, 4)) for z in (0.5, 0.75)),
    Variant("i8", "i8", _I8, quantized=True),
    *(Variant(f"i8 {b[0]}x{b[1]}, {z:.0%} zero", "i8", _I8, b, z, quantized=True)
      for b in ((32, 64), (32, 16), (32, 4), (16, 4)) for z in (0.5, 0.75)),
    Variant("i8 weights", "f32", _I8),
    Variant("i4 weights, groups of 32", "f32", Affine(dtypes.i4, axis=(0,), group=32)),
    Variant("bf16", "f32", dtype=dtypes.bf16),
)


def weight(variant: Variant, outputs: int, inputs: int) -> tuple[TensorType, Parts]:
    """Random weights as the variant stores them."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((outputs, inputs)).astype(np.float32)
    if variant.block is None:
        type = TensorType((outputs, inputs), variant.dtype, variant.inner)
        if isinstance(variant.inner, Affine):
            return type, quantize_array(matrix, variant.inner)
        return type, {"values": dtypes.f32_to_bf16(matrix) if variant.dtype is dtypes.bf16 else matrix}
    extra: dict[str, np.ndarray] = {}
    if isinstance(variant.inner, Affine):
        extra = quantize_array(matrix, variant.inner)
        matrix = extra.pop("values")
    rows, columns = variant.block
    tiles = matrix.reshape(outputs // rows, rows, inputs // columns, columns).transpose(0, 2, 1, 3)
    places = rng.permutation(tiles.shape[0] * tiles.shape[1]).reshape(tiles.shape[:2])
    kept = places >= round(places.size * variant.zeros)
    encoding = BlockSparse(variant.block, int(kept.sum()), variant.inner)
    parts = {"values": tiles[kept], "columns": np.nonzero(kept)[1].astype(np.int32),
             "rows": np.concatenate([[0], kept.sum(1).cumsum()]).astype(np.int32), **extra}
    return TensorType((outputs, inputs), dtypes.f32, encoding), parts


def compile_variant(variant: Variant, rows: int, inputs: int, outputs: int) -> Executable:
    """A graph of products of one input with one weight. Results of bytes are bytes, as between the layers of a model; the
    graph's own results are a row of each, so that products find their memory in the cache, as between layers, too."""
    type, parts = weight(variant, outputs, inputs)
    store = WeightStore()
    digest = store.add(type, {k: np.ascontiguousarray(v) for k, v in parts.items()}).digest
    x, y, row = (f"{variant.dtype}[{a}, {b}]" for a, b in ((rows, inputs), (rows, outputs), (1, outputs)))
    lines = [f"graph @products (%x: {x}) -> ({', '.join([row] * _COPIES)}) {{", f"  %w = const @w#{digest} : {type}"]
    if variant.quantized:
        lines.append(f"  %q = quantize %x {{dtype=!u8, scale=0.03, zero=128}} : {x} affine<u8, scale=0.03, zero=128>")
    for i in range(_COPIES):
        lines.append(f"  %l{i} = linear %{'q' if variant.quantized else 'x'}, %w : {y}")
        last = f"l{i}"
        if variant.quantized:
            how = "scale=0.5, zero=128"
            lines.append(f"  %b{i} = quantize %l{i} {{dtype=!u8, {how}}} : {y} affine<u8, {how}>")
            lines.append(f"  %y{i} = decode %b{i} : {y}")
            last = f"y{i}"
        lines.append(f"  %r{i} = slice %{last} {{axis=0, start=0, stop=1}} : {row}")
    graph = parse_graph("\n".join([*lines, f"  return {', '.join(f'%r{i}' for i in range(_COPIES))}", "}"]), store)
    PassManager("fuse").run(graph)
    return BACKEND.compile(graph, CompileOptions(threads=1))


def compile_pair(kind: str, shape: Sequence[int], *, fused: bool, threads: int) -> Executable:
    """A graph of pairs of products, as one kernel each or as two. kind: one of PAIRS."""
    rows, inputs, rank, outputs = shape
    variant = next(v for v in VARIANTS if v.name == kind.split(",")[0])
    store = WeightStore()
    types, digests = [], []
    for size in ((rank, inputs), (outputs, rank)):
        type, parts = weight(variant, *size)
        types.append(type)
        digests.append(store.add(type, {k: np.ascontiguousarray(v) for k, v in parts.items()}).digest)
    y = f"f32[{rows}, {outputs}]"
    lines = [f"graph @pairs (%x: f32[{rows}, {inputs}]) -> ({', '.join([y] * _COPIES)}) {{",
             f"  %v = const @v#{digests[0]} : {types[0]}", f"  %u = const @u#{digests[1]} : {types[1]}"]

    def quantize(result: str, x: str, size: int, attrs: str, encoding: str) -> str:
        return f"  %{result} = quantize %{x} {{dtype=!u8, {attrs}}} : f32[{rows}, {size}] affine<u8, {encoding}>"

    source = "x"
    if variant.quantized:
        lines.append(quantize("q", "x", inputs, "scale=0.03, zero=128", "scale=0.03, zero=128"))
        source = "q"
    for i in range(_COPIES):
        lines.append(f"  %h{i} = linear %{source}, %v : f32[{rows}, {rank}]")
        middle = f"h{i}"
        if variant.quantized:
            middle = f"p{i}"
            how = ("scale=0.5, zero=128", "scale=0.5, zero=128") if kind == "i8" else \
                ("zero_point=true", "axis=[0], zero_point=true")
            lines.append(quantize(middle, f"h{i}", rank, *how))
        lines.append(f"  %y{i} = linear %{middle}, %u : {y}")
    graph = parse_graph("\n".join([*lines, f"  return {', '.join(f'%y{i}' for i in range(_COPIES))}", "}"]), store)
    PassManager("fuse" if fused else "fuse{pairs=false}").run(graph)
    return BACKEND.compile(graph, CompileOptions(threads=threads))


def measure(
    executables: dict[str, Executable], rows: int, inputs: int, seconds: float, threads: int = 1
) -> dict[str, float]:
    """Microseconds of one product of each, the least of what was seen in `seconds`."""
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    values = np.random.default_rng(2).standard_normal((rows, inputs)).astype(np.float32)
    best = dict.fromkeys(executables, float("inf"))
    for name, executable in executables.items():
        executable.run([dtypes.f32_to_bf16(values) if name == "bf16" else values], {})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, executable in executables.items():
            given = dtypes.f32_to_bf16(values) if name == "bf16" else values
            start = clock()
            executable.run([given], {})
            best[name] = min(best[name], (clock() - start) / 1e3 / _COPIES)
    return best


def measure_products(executables: dict[str, Executable], rows: int, inputs: int, seconds: float) -> dict[str, float]:
    """As measure, of the kernels of products alone: without what turns the input into bytes and results into floats."""
    values = np.random.default_rng(2).standard_normal((rows, inputs)).astype(np.float32)
    best = dict.fromkeys(executables, float("inf"))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, executable in executables.items():
            given = dtypes.f32_to_bf16(values) if name == "bf16" else values
            times = executable.profile([given], {}, repeats=3)
            products = [t for t, kernel in zip(times, executable.kernels({}), strict=True) if "linear" in kernel.ops]
            best[name] = min(best[name], sum(products) / len(products))
    return best


def pair_table(shapes: Sequence[Sequence[int]], seconds: float, threads: int) -> Iterator[str]:
    """Lines of a markdown table of pairs of products."""
    yield f"| rows x inputs x rank x outputs, {threads} threads | variant | two kernels, us | one kernel, us | speed |"
    yield "|---|---|---|---|---|"
    for shape in shapes:
        for kind in PAIRS:
            made = {str(fused): compile_pair(kind, shape, fused=fused, threads=threads) for fused in (False, True)}
            two, one = measure(made, shape[0], shape[1], seconds / len(PAIRS), threads).values()
            yield f"| {'x'.join(map(str, shape))} | {kind} | {two:.1f} | {one:.1f} | {two / one:.2f} |"


def table(rows: int, sizes: Sequence[tuple[int, int]], seconds: float) -> Iterator[str]:
    """Lines of a markdown table."""
    yield f"| inputs x outputs, {rows} rows | variant | us | speed |"
    yield "|---|---|---|---|"
    for inputs, outputs in sizes:
        made = {v.name: compile_variant(v, rows, inputs, outputs) for v in VARIANTS}
        found = measure_products(made, rows, inputs, seconds)
        for v in VARIANTS:
            speed = found[v.base] / found[v.name]
            yield f"| {inputs} x {outputs} | {v.name} | {found[v.name]:.1f} | {speed:.2f} of {v.base} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.products", description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--sizes", default="384x384,384x1536,1536x384,4096x4096", help="inputs x outputs, comma-separated")
    parser.add_argument("--pairs", default="", help="rows x inputs x rank x outputs, comma-separated: pairs instead")
    parser.add_argument("--threads", type=int, default=1, help="for pairs")
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time for each size")
    options = parser.parse_args(arguments)
    if options.pairs:
        shapes = [tuple(map(int, s.split("x"))) for s in options.pairs.split(",")]
        for line in pair_table(shapes, options.seconds, options.threads):
            print(line, flush=True)
        return 0
    sizes = [(int(a), int(b)) for a, b in (s.split("x") for s in options.sizes.split(","))]
    for line in table(options.rows, sizes, options.seconds):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
