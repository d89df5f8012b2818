"""Products: random ragged shapes, element types and encodings of the weight, with what follows in the same kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Affine, BlockSparse, Encoding, Scaled
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, graph_of, kinds, made, needs_triton

pytestmark = needs_triton

ENCODINGS: dict[str, tuple[Encoding, str]] = {
    "dense": (DENSE, "linear"),
    "i8": (Affine(dtypes.i8, axis=(0,)), "linear_i8_weight"),
    "i8 whole": (Affine(dtypes.i8), "linear_i8_weight"),
    "i8 zeros": (Affine(dtypes.u8, axis=(0,), zero_point=True), "linear_grouped"),
    "i8 groups": (Affine(dtypes.i8, axis=(0,), group=8), "linear_grouped"),
    "i3 groups": (Affine(dtypes.i3, axis=(0,), group=4), "linear_grouped"),
    "i4": (Affine(dtypes.i4, axis=(0,), group=8), "linear_i4"),
    "i4 rows": (Affine(dtypes.i4, axis=(0,)), "linear_i4"),
    "u4 zeros": (Affine(dtypes.u4, axis=(0,), group=16, zero_point=True), "linear_i4"),
    "f8": (Scaled(axis=(0,)), "linear_f8_weight"),
    "f8 whole": (Scaled(), "linear_f8_weight"),
    "u4 zero": (Affine(dtypes.u4, axis=(0,), group=8, zero=8), "linear_i4"),
}
FLOATS = (dtypes.f32, dtypes.f16, dtypes.bf16)


def _linear(dtype: DType, encoding: Encoding, n: int, k: int, *, bias: bool, tail: bool):
    def make(m: Made) -> list[Value]:
        x = m.input((B, k), dtype)
        y = m.op("linear", x, m.const((n, k), dtype, encoding), m.const((n,), dtype) if bias else None)
        return [m.op("add", m.op("gelu", y), m.input((B, n), dtype))] if tail else [y]

    return make


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_linear(encoding: str, dtype: DType) -> None:
    how, kind = ENCODINGS[encoding]
    rng = np.random.default_rng(len(encoding) + dtype.bits)
    for rows in (1, 7, int(rng.integers(17, 40))):
        n, k = int(rng.integers(1, 70)), 16 * int(rng.integers(1, 8))
        graph = made(_linear(dtype, how, n, k, bias=rows > 1, tail=rows != 7), rows)
        executable = check(graph, {"B": rows})
        expected = kind if rows > 4 else kind.replace("linear", "vector")
        assert kinds(executable, B=rows) == [expected]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_odd_lengths(dtype: DType) -> None:
    """Neither rows, columns nor the inner axis are multiples of anything."""
    for rows, n, k in ((5, 3, 7), (33, 65, 129), (2, 1, 1)):
        check(made(_linear(dtype, DENSE, n, k, bias=True, tail=True), k), {"B": rows})


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("block", [(16, 4), (4, 1), (32, 16), (3, 5)], ids=str)
def test_block_sparse_weights(block: tuple[int, int], dtype: DType) -> None:
    n, k = 5 * block[0], 6 * block[1]
    encoding = BlockSparse(block, 1)
    if dtype is dtypes.bf16:
        encoding = BlockSparse(block, 1, Affine(dtypes.i8, axis=(0,)))
    executable = check(made(_linear(dtype, encoding, n, k, bias=True, tail=True), n), {"B": 19})
    assert kinds(executable, B=19)[0].startswith("blocksparse")


@pytest.mark.parametrize("how", [
    {}, {"dtype": dtypes.u8, "scale": 0.03, "zero": 117}, {"dtype": dtypes.i8, "scale": 0.03},
    {"dtype": dtypes.u8, "zero_point": True},
], ids=["rows", "static", "symmetric", "rows with zeros"])
@pytest.mark.parametrize("block", [(16, 4), (32, 16), (3, 5)], ids=str)
def test_block_sparse_weights_times_bytes(block: tuple[int, int], how: dict[str, object]) -> None:
    """Sums are integers; what activations' zero points add is taken out by sums over the blocks that are stored."""
    n, k = 5 * block[0], 7 * block[1]

    def make(m: Made) -> list[Value]:
        x = m.op("quantize", m.input((B, 3, k)), **how)
        w = m.const((n, k), dtypes.f32, BlockSparse(block, 1, Affine(dtypes.i8, axis=(0,))))
        return [m.op("add", m.op("gelu", m.op("linear", x, w, m.const((n,)))), m.input((B, 3, n)))]

    executable = check(made(make, n), {"B": 7})
    assert kinds(executable, B=7)[-1] == "blocksparse_bytes" and "decode" not in " ".join(kinds(executable, B=7))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("rank", [1, 8, 40])
def test_low_rank_pairs(rank: int, dtype: DType) -> None:
    def make(m: Made) -> list[Value]:
        h = m.op("linear", m.input((B, 3, 50), dtype), m.const((rank, 50), dtype, scale=0.2), m.const((rank,), dtype))
        y = m.op("linear", h, m.const((70, rank), dtype, scale=0.2), m.const((70,), dtype))
        return [m.op("relu", y)]

    executable = check(made(make, rank), {"B": 7})
    assert kinds(executable, B=7) == ["pair"]


def test_a_wide_middle_is_two_products() -> None:
    def make(m: Made) -> list[Value]:
        h = m.op("linear", m.input((B, 300)), m.const((200, 300), scale=0.1))
        return [m.op("linear", h, m.const((300, 200), scale=0.1))]

    assert kinds(check(made(make), {"B": 9}), B=9) == ["linear", "linear"]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_matmul_of_views(dtype: DType) -> None:
    """Operands in any order of axes, and broadcast; the tail reads along other axes."""
    def make(m: Made) -> list[Value]:
        a, b = m.input((B, 5, 4, 9), dtype), m.input((4, 11, 9), dtype)
        left = m.op("permute", a, order=(0, 2, 1, 3))
        right = m.op("permute", b, order=(0, 2, 1))
        return [m.op("mul", m.op("matmul", left, right), m.input((B, 1, 5, 1), dtype))]

    check(made(make), {"B": 3})


BYTES = """graph @bytes [B in 1..] (%x: f32[B, 3, 37]) -> (f32[B, 3, 19], f32[B, 3, 19], f32[B, 3, 5]) {
  %w = const @w#int8 : f32[19, 37] affine<i8, axis=0>
  %v = const @v#int8 : f32[5, 19] affine<i8>
  %b = const @b#seed=2 : f32[19]
  %q = quantize %x {dtype=!i8} : f32[B, 3, 37] affine<i8, axis=[0, 1]>
  %y = linear %q, %w, %b : f32[B, 3, 19]
  %u = quantize %x {dtype=!u8, zero_point=true} : f32[B, 3, 37] affine<u8, axis=[0, 1], zero_point=true>
  %z = linear %u, %w, %b : f32[B, 3, 19]
  %s = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 3, 37] affine<u8, scale=0.03, zero=120>
  %h = linear %s, %w : f32[B, 3, 19]
  %r = relu %h : f32[B, 3, 19]
  %o = quantize %r {dtype=!u8, scale=0.1, zero=3} : f32[B, 3, 19] affine<u8, scale=0.1, zero=3>
  %t = linear %o, %v : f32[B, 3, 5]
  return %y, %z, %t
}"""


def test_bytes() -> None:
    """Scales and zero points from the data and known ones; the middle is requantized in the kernel."""
    from mcomp.manager import PassManager

    graph = graph_of(BYTES)
    PassManager("fuse").run(graph)
    for rows in (1, 6):
        executable = check(graph, {"B": rows}, tolerance=5e-3)
    names = kinds(executable, B=6)
    assert names.count("linear_i8") == 4 and not any(n.startswith("torch") for n in names)
    # The requantized middle never exists in f32: nothing between its two products but bytes.
    assert "decode" not in " ".join(s.name for s in executable.steps({"B": 6}))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("how", [{}, {"axis": (0,)}, {"scale": 0.02}], ids=["rows", "samples", "static"])
def test_floats_of_8_bits(how: dict[str, object], dtype: DType) -> None:
    """What is multiplied is rounded as the reference rounds it; numbers beyond the largest are limited."""
    def make(m: Made) -> list[Value]:
        x = m.op("quantize", m.input((B, 3, 48), dtype), dtype=dtypes.f8e4m3, **how)
        w = m.const((33, 48), dtype, Scaled(axis=(0,)))
        return [m.op("relu", m.op("linear", x, w, m.const((33,), dtype))), m.op("decode", x)]

    for rows in (1, 9):
        executable = check(made(make, rows), {"B": rows})
        names = kinds(executable, B=rows)
        assert names[:2] == ["quantize", "linear_f8"] and not any(n.startswith("torch") for n in names)


def test_bytes_are_exact_integers() -> None:
    """With whole scales the products are sums of integers, and come out exactly."""
    def make(m: Made) -> list[Value]:
        w = m.const((33, 64), dtypes.f32, Affine(dtypes.i8, scale=1.0))
        return [m.op("linear", m.op("quantize", m.input((B, 64)), scale=1.0), w)]

    graph = made(make)
    from tests.triton.harness import compiled

    x = torch.randint(-128, 128, (9, 64)).float()
    from mcomp.ops.evaluate import run_graph

    assert torch.equal(compiled(graph).run([x], {"B": 9})[0], run_graph(graph, [x])[0])
