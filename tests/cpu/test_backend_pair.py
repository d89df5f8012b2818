"""Pairs of products as one kernel: the factors of linears and of 1 x 1 convolutions, in floats and in bytes."""

from __future__ import annotations

from functools import cache

import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.manager import PassManager
from tests.cpu.backend_harness import check, each_isa, graph_of, kernel_names, needs_compiler

pytestmark = needs_compiler

FLOATS = """graph @floats [B in 0..] (%x: f32[B, 3, 40], %r: f32[B, 3, 70]) -> (f32[B, 3, 70]) {
  %v = const @v#seed=1 : f32[28, 40]
  %s = const @s#seed=2 : f32[28]
  %u = const @u#seed=3 : f32[70, 28]
  %b = const @b#seed=4 : f32[70]
  %h = linear %x, %v, %s : f32[B, 3, 28]
  %y = linear %h, %u, %b : f32[B, 3, 70]
  %g = gelu %y : f32[B, 3, 70]
  %o = add %g, %r : f32[B, 3, 70]
  return %o
}"""

STATIC = """graph @static [B in 0..] (%x: f32[B, 40]) -> (f32[B, 33]) {
  %v = const @v#int8 : f32[27, 40] affine<i8, axis=0>
  %s = const @s#seed=2 : f32[27]
  %u = const @u#int8 : f32[33, 27] affine<i8>
  %b = const @b#seed=4 : f32[33]
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 40] affine<u8, scale=0.03, zero=120>
  %h = linear %q, %v, %s : f32[B, 27]
  %p = quantize %h {dtype=!i8, scale=0.11, zero=-5} : f32[B, 27] affine<i8, scale=0.11, zero=-5>
  %y = linear %p, %u, %b : f32[B, 33]
  %a = relu %y : f32[B, 33]
  %o = quantize %a {dtype=!u8, scale=0.2} : f32[B, 33] affine<u8, scale=0.2>
  %d = decode %o : f32[B, 33]
  return %d
}"""

DYNAMIC = """graph @dynamic [B in 0..] (%x: f32[B, 2, 40]) -> (f32[B, 2, 33]) {
  %v = const @v#int8 : f32[27, 40] affine<i8, axis=0>
  %u = const @u#int8 : f32[33, 27] affine<i8, axis=0>
  %b = const @b#seed=4 : f32[33]
  %q = quantize %x {dtype=!i8} : f32[B, 2, 40] affine<i8, axis=[0, 1]>
  %h = linear %q, %v : f32[B, 2, 27]
  %p = quantize %h {dtype=!u8, zero_point=true} : f32[B, 2, 27] affine<u8, axis=[0, 1], zero_point=true>
  %y = linear %p, %u, %b : f32[B, 2, 33]
  return %y
}"""

_POINTS = "{stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1}"
CONV = f"""graph @conv [B in 0..] (%x: f32[B, 32, 5, 6]) -> (f32[B, 40, 5, 6]) {{
  %v = const @v#seed=1 : f32[24, 32, 1, 1]
  %u = const @u#seed=3 : f32[40, 24, 1, 1]
  %b = const @b#seed=4 : f32[40]
  %h = conv %x, %v {_POINTS} : f32[B, 24, 5, 6]
  %y = conv %h, %u, %b {_POINTS} : f32[B, 40, 5, 6]
  %a = relu %y : f32[B, 40, 5, 6]
  return %a
}}"""

CONV_I8 = f"""graph @conv_i8 [B in 0..] (%x: f32[B, 32, 5, 6]) -> (f32[B, 40, 5, 6]) {{
  %v = const @v#int8 : f32[24, 32, 1, 1] affine<i8, axis=0>
  %s = const @s#seed=2 : f32[24]
  %u = const @u#int8 : f32[40, 24, 1, 1] affine<i8, axis=0>
  %q = quantize %x {{dtype=!u8, scale=0.03, zero=120}} : f32[B, 32, 5, 6] affine<u8, scale=0.03, zero=120>
  %h = conv %q, %v, %s {_POINTS} : f32[B, 24, 5, 6]
  %p = quantize %h {{dtype=!u8, scale=0.1, zero=120}} : f32[B, 24, 5, 6] affine<u8, scale=0.1, zero=120>
  %y = conv %p, %u {_POINTS} : f32[B, 40, 5, 6]
  return %y
}}"""

DOUBLES = """graph @doubles [B in 0..] (%x: f64[B, 40]) -> (f64[B, 33]) {
  %v = const @v#seed=1 : f64[9, 40]
  %u = const @u#seed=3 : f64[33, 9]
  %h = linear %x, %v : f64[B, 9]
  %y = linear %h, %u : f64[B, 33]
  %a = relu %y : f64[B, 33]
  return %a
}"""

NARROW = DOUBLES.replace("doubles", "narrow").replace("f64", "f32")

ALL = (FLOATS, STATIC, DYNAMIC, CONV, CONV_I8, DOUBLES, NARROW)
# One activation in a thousand may round to the neighbouring integer.
LOOSE = 5e-3


@cache
def _all(isa: str | None) -> dict[str, CpuExecutable]:
    graphs = [graph_of(text) for text in ALL]
    for graph in graphs:
        PassManager("fuse").run(graph)
    found = BACKEND.compile_many(graphs, CompileOptions(isa=isa, threads=2))
    return {text: x for text, x in zip(ALL, found, strict=True) if isinstance(x, CpuExecutable)}


@each_isa
def test_pairs_agree_with_the_reference(isa: str | None) -> None:
    torch.manual_seed(4)
    found = _all(isa)
    for batch in (0, 1, 2, 45):  # columns divided, and rows
        check(found[FLOATS], [torch.randn(batch, 3, 40), torch.randn(batch, 3, 70)], tolerance=5e-6)
        check(found[STATIC], [torch.randn(3 * batch, 40)], tolerance=LOOSE)
        check(found[DYNAMIC], [torch.randn(batch, 2, 40)], tolerance=LOOSE)
        check(found[CONV], [torch.randn(batch, 32, 5, 6)], tolerance=5e-6)
        check(found[CONV_I8], [torch.randn(batch, 32, 5, 6)], tolerance=LOOSE)
        check(found[NARROW], [torch.randn(batch, 40)], tolerance=5e-6)
        check(found[DOUBLES], [torch.randn(batch, 40, dtype=torch.float64)], tolerance=1e-14)


def test_a_pair_is_one_kernel() -> None:
    found = _all(None)
    assert kernel_names(found[FLOATS], B=4) == ["linear_pair"]
    assert kernel_names(found[STATIC], B=4)[:2] == ["quantize", "linear_pair_i8"]
    assert kernel_names(found[DYNAMIC], B=4) == ["quantize_rows", "linear_pair_i8"]
    assert "conv_pair" in kernel_names(found[CONV], B=4) and "conv_pair_i8" in kernel_names(found[CONV_I8], B=4)
    assert "Requantize<uint8_t> ep" in found[STATIC].source()


def test_other_pairs_are_two_kernels_each_with_its_own_work() -> None:
    for text, size in ((DOUBLES, 8), (NARROW, 4)):
        first, second = _all(None)[text].kernels({"B": 10})
        assert [(k.name, k.ops) for k in (first, second)] == [("linear", ("linear",)), ("linear", ("linear", "relu"))]
        assert (first.flops, second.flops) == (2 * 10 * 9 * 40, 2 * 10 * 33 * 9 + 10 * 33)
        assert (first.write, second.write) == (10 * 9 * size, 10 * 33 * size)


def test_rows_of_a_pair_that_are_not_finite_stay_apart() -> None:
    x = torch.randn(70, 2, 40)
    x[3, 1, 5], x[60, 0, 2] = float("inf"), float("nan")
    (found,) = _all(None)[DYNAMIC].run([x], {"B": 70})
    bad = ~torch.isfinite(found).all(-1)
    assert bad.nonzero().tolist() == [[3, 1], [60, 0]]
