"""Block-sparse and n:m weights in graphs: what is multiplied, what is decoded, and what is said about it."""

from __future__ import annotations

import numpy as np
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.backends.cpu.lower.sparse import multiplied
from mcomp.ir import NM, Affine, BlockSparse, Encoding, TensorType, WeightStore, dtypes, parse_graph
from mcomp.ir.encoding import quantize_array
from mcomp.manager.context import Context
from tests.cpu.backend_harness import check, each_float_isa, each_isa, kernel_names, needs_compiler

pytestmark = needs_compiler


def block_weight(store: WeightStore, n: int, k: int, block: tuple[int, int], share: float, inner: Encoding | None = None,
                 dtype: dtypes.DType = dtypes.f32, kernel: tuple[int, ...] = ()) -> tuple[str, str]:
    """The digest and type text of a random weight [n, k, *kernel] of which a share of the blocks is stored."""
    rng = np.random.default_rng(n + k)
    matrix = rng.standard_normal((n, k)).astype(np.float32)
    extra: dict[str, np.ndarray] = {}
    if isinstance(inner, Affine):
        extra = quantize_array(matrix.reshape(n, k, *kernel), inner)
        matrix = extra.pop("values").reshape(n, k)
    elif dtype is dtypes.bf16:
        matrix = dtypes.f32_to_bf16(matrix)
    tiles = matrix.reshape(n // block[0], block[0], k // block[1], block[1]).transpose(0, 2, 1, 3)
    owner, columns = np.nonzero(rng.random(tiles.shape[:2]) < share)
    starts = np.searchsorted(owner, np.arange(len(tiles) + 1)).astype(np.int32)
    encoding = BlockSparse(block, len(owner), inner) if inner is not None else BlockSparse(block, len(owner))
    type = TensorType((n, k, *kernel), dtype, encoding)
    parts = {"values": tiles[owner, columns].copy(), "columns": columns.astype(np.int32), "rows": starts, **extra}
    return store.add(type, parts).digest, str(type)


def build(
    body: str, weights: dict[str, tuple[str, str]], store: WeightStore, isa: str | None
) -> tuple[CpuExecutable, Context]:
    """The executable of a graph whose text names the weights, and the remarks of its lowering."""
    lines = "\n".join(f"  %{name} = const @{name}#{digest} : {type}" for name, (digest, type) in weights.items())
    context = Context(target="cpu")
    graph = parse_graph(body.replace("WEIGHTS", lines), store, generate=True)
    return BACKEND.compile(graph, CompileOptions(isa=isa, threads=2), context), context


FLOATS = """graph @floats [B in 1..] (%x: f32[B, 3, 48]) -> (f32[B, 3, 64], f32[B, 3, 40], f32[B, 3, 64]) {
WEIGHTS
  %b = const @b#seed=2 : f32[64]
  %y0 = fused %x, %u, %b {kind="epilogue", body=graph @body [B in 1..]
      (%x: f32[B, 3, 48], %u: U, %b: f32[64]) -> (f32[B, 3, 64]) {
    %h = linear %x, %u, %b : f32[B, 3, 64]
    %r = relu %h : f32[B, 3, 64]
    return %r
  }} : f32[B, 3, 64]
  %y1 = linear %x, %v : f32[B, 3, 40]
  %y2 = linear %x, %s : f32[B, 3, 64]
  return %y0, %y1, %y2
}"""

BYTES = """graph @bytes [B in 1..] (%x: f32[B, 48]) -> (f32[B, 64], f32[B, 64], f32[B, 40]) {
WEIGHTS
  %b = const @b#seed=2 : f32[64]
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 48] affine<u8, scale=0.03, zero=120>
  %r = quantize %x {dtype=!i8} : f32[B, 48] affine<i8, axis=0>
  %y0 = linear %q, %u, %b : f32[B, 64]
  %y1 = linear %r, %u, %b : f32[B, 64]
  %y2 = linear %q, %v : f32[B, 40]
  return %y0, %y1, %y2
}"""


@each_float_isa
def test_float_activations(isa: str | None) -> None:
    store = WeightStore()
    weights = {
        "u": block_weight(store, 64, 48, (32, 4), 0.3), "v": block_weight(store, 40, 48, (8, 3), 0.2),
        "s": block_weight(store, 64, 48, (16, 6), 0.4, Affine(axis=(0,))),
    }
    executable, _ = build(FLOATS.replace("%u: U", f"%u: {weights['u'][1]}"), weights, store, isa)
    for batch in (1, 7):
        check(executable, [torch.randn(batch, 3, 48)])
        assert kernel_names(executable, B=batch) == ["linear_sparse"] * 3


@each_isa
def test_int8_activations(isa: str | None) -> None:
    store = WeightStore()
    weights = {
        "u": block_weight(store, 64, 48, (32, 4), 0.3, Affine(axis=(0,))),
        "v": block_weight(store, 40, 48, (8, 3), 0.3, Affine()),
    }
    executable, _ = build(BYTES, weights, store, isa)
    for batch in (1, 9):
        check(executable, [torch.randn(batch, 48)], tolerance=5e-3)
        names = kernel_names(executable, B=batch)
        assert [n for n in names if "linear" in n] == ["linear_sparse_i8"] * 3
        assert not any("decode" in n for n in names)


ONE = """graph @one [B in 1..] (%x: f32[B, 48]) -> (f32[B, 64]) {
WEIGHTS
  %y = linear %x, %w : f32[B, 64]
  return %y
}"""


def test_bf16_weights_and_activations() -> None:
    store = WeightStore()
    weights = {"w": block_weight(store, 64, 48, (32, 8), 0.4, None, dtypes.bf16)}
    executable, _ = build(ONE.replace("f32", "bf16"), weights, store, None)
    check(executable, [torch.randn(5, 48).bfloat16()], tolerance=4e-3)
    assert kernel_names(executable, B=5) == ["linear_sparse"]


def test_blocks_that_do_not_fill_panels_are_remarked_on() -> None:
    store = WeightStore()
    executable, context = build(ONE, {"w": block_weight(store, 64, 48, (2, 2), 0.2)}, store, None)
    check(executable, [torch.randn(3, 48)])
    (remark,) = context.remarks
    assert "blocks of 2x2 do not fill" in remark.reason and "32 or 16 output channels" in remark.remedy
    _, context = build(ONE, {"w": block_weight(store, 64, 48, (32, 2), 0.2)}, store, None)
    assert not context.remarks


def test_two_of_four_weights_are_decoded_with_a_remark() -> None:
    store = WeightStore()
    type = TensorType((64, 48), dtypes.f32, NM(2, 4))
    rng = np.random.default_rng(1)
    indices = np.tile(np.array([0, 2], np.uint8), (64, 12))
    values = rng.standard_normal((64, 24)).astype(np.float32)
    digest = store.add(type, {"values": values, "indices": indices}).digest
    executable, context = build(ONE, {"w": (digest, str(type))}, store, None)
    check(executable, [torch.randn(3, 48)])
    assert kernel_names(executable, B=3) == ["linear"]
    (remark,) = context.remarks
    assert "decoded" in remark.reason and "2 of 4 inputs saves no vector instructions" in remark.remedy


def test_weights_with_zero_points_are_decoded_with_a_remark() -> None:
    store = WeightStore()
    inner = Affine(axis=(0,), zero=3)
    executable, context = build(ONE, {"w": block_weight(store, 64, 48, (32, 4), 0.3, inner)}, store, None)
    check(executable, [torch.randn(3, 48)])
    assert kernel_names(executable, B=3) == ["linear"]
    assert any("zero points of zero" in r.remedy for r in context.remarks)


def test_share_of_the_product_that_is_multiplied() -> None:
    """Panels of 16 outputs over blocks of 8: a piece counts where either half has a block."""
    starts, columns = np.array([0, 1, 3, 4, 4], np.int32), np.array([0, 0, 2, 3], np.int32)
    parts = {"values": np.ones((4, 8, 4), np.float32), "rows": starts, "columns": columns}
    encoding = BlockSparse((8, 4), 4)
    assert multiplied(parts, encoding, (32, 16), 8, 4) == 4 / 16
    assert multiplied(parts, encoding, (32, 16), 16, 4) == 3 / 8
    assert multiplied(parts, encoding, (32, 16), 32, 4) == 3 / 4


POINTWISE = """graph @pixels [B in 1..] (%x: f32[B, 48, 5, 6]) -> (f32[B, 64, 5, 6], f32[B, 64, 5, 6], f32[B, 64, 3, 3]) {
WEIGHTS
  %b = const @b#seed=2 : f32[64]
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 48, 5, 6] affine<u8, scale=0.03, zero=120>
  %y0 = fused %x, %u, %b {kind="epilogue", body=graph @body [B in 1..]
      (%x: f32[B, 48, 5, 6], %u: U, %b: f32[64]) -> (f32[B, 64, 5, 6]) {
    %h = conv %x, %u, %b {stride = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 64, 5, 6]
    %r = relu %h : f32[B, 64, 5, 6]
    return %r
  }} : f32[B, 64, 5, 6]
  %y1 = conv %q, %v, %b {stride = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 64, 5, 6]
  %y2 = conv %x, %u {stride = [2, 2], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 64, 3, 3]
  return %y0, %y1, %y2
}"""


@each_isa
def test_pixels_of_pointwise_convolutions_are_rows(isa: str | None) -> None:
    """Of stride 1: others decode their weights, and say so."""
    store = WeightStore()
    weights = {
        "u": block_weight(store, 64, 48, (32, 4), 0.3, kernel=(1, 1)),
        "v": block_weight(store, 64, 48, (16, 8), 0.3, Affine(axis=(0,)), kernel=(1, 1)),
    }
    executable, context = build(POINTWISE.replace("%u: U", f"%u: {weights['u'][1]}"), weights, store, isa)
    for batch in (1, 3):
        check(executable, [torch.randn(batch, 48, 5, 6)], tolerance=5e-3)
        names = kernel_names(executable, B=batch)
        assert names.count("linear_sparse") == 1 and names.count("linear_sparse_i8") == 1 and names.count("conv") == 1
    assert any("decoded" in r.reason for r in context.remarks)
