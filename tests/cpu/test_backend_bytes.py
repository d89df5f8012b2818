"""Bytes that are averaged, joined and split as they are."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.manager import Context
from mcomp.manager.run import PassManager
from tests.cpu.backend_harness import check, each_isa, graph_of, kernel_names, needs_compiler

pytestmark = needs_compiler
# One activation in a thousand may round to the neighbouring integer.
LOOSE = 5e-3
_CODE = "affine<u8, scale=0.03, zero=120>"
_OTHER = "affine<i8, scale=0.011, zero=-7>"
_TO_CODE = "{dtype=!u8, scale=0.03, zero=120}"
_TO_OTHER = "{dtype=!i8, scale=0.011, zero=-7}"
_POINT = "{stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1}"


def _averaged(channels: int) -> str:
    """Convolutions of averages of bytes that a convolution gives."""
    c = channels
    weight = f"f32[{c}, {c}, 1, 1]"
    return f"""graph @averaged{c} [B in 1..] (%x: f32[B, {c}, 9, 10])
    -> (f32[B, {c}, 4, 5], f32[B, 5], f32[B, {c}, 1, 1], f32[B, {c}, 5, 6]) {{
  %w = const @w#int8 : {weight} affine<i8, axis=0>
  %v = const @v#int8 : f32[5, {c}] affine<i8, axis=0>
  %q = quantize %x {_TO_CODE} : f32[B, {c}, 9, 10] {_CODE}
  %h = conv %q, %w {_POINT} : f32[B, {c}, 9, 10]
  %r = relu %h : f32[B, {c}, 9, 10]
  %k = quantize %r {_TO_CODE} : f32[B, {c}, 9, 10] {_CODE}
  %d = decode %k : f32[B, {c}, 9, 10]
  %a = avg_pool %d {{kernel=[3,2], stride=[2,2], padding=[[0,0],[0,0]]}} : f32[B, {c}, 4, 5]
  %b = quantize %a {_TO_OTHER} : f32[B, {c}, 4, 5] {_OTHER}
  %y = conv %b, %w {_POINT} : f32[B, {c}, 4, 5]
  %m = mean %d {{axes=[2, 3]}} : f32[B, {c}]
  %n = quantize %m {_TO_OTHER} : f32[B, {c}] {_OTHER}
  %z = linear %n, %v : f32[B, 5]
  %g = adaptive_avg_pool %d {{size=[1, 1]}} : f32[B, {c}, 1, 1]
  %t = neg %g : f32[B, {c}, 1, 1]
  %e = avg_pool %d {{kernel=[2,2], stride=[2,2], padding=[[1,1],[1,1]], count_padding=false}} : f32[B, {c}, 5, 6]
  return %y, %z, %t, %e
}}"""


NARROW, WIDE = _averaged(12), _averaged(70)

TOKENS = f"""graph @tokens [B in 1.., S in 1..] (%x: f32[B, S, 37], %p: f32[B, 37, S]) -> (f32[B, 5], f32[B, 37]) {{
  %v = const @v#int8 : f32[5, 37] affine<i8, axis=0>
  %q = quantize %x {_TO_CODE} : f32[B, S, 37] {_CODE}
  %d = decode %q : f32[B, S, 37]
  %m = mean %d {{axes=[1]}} : f32[B, 37]
  %n = quantize %m {_TO_OTHER} : f32[B, 37] {_OTHER}
  %z = linear %n, %v : f32[B, 5]
  %c = quantize %p {_TO_CODE} : f32[B, 37, S] {_CODE}
  %e = decode %c : f32[B, 37, S]
  %l = mean %e {{axes=[2]}} : f32[B, 37]
  return %z, %l
}}"""

JOINED = f"""graph @joined [B in 1..] (%x: f32[B, 12, 6, 7], %y: f32[B, 5, 6, 7])
    -> (f32[B, 9, 6, 7], f32[B, 17, 6, 7], f32[B, 3, 6, 7], f32[B, 17, 6, 7]) {{
  %w = const @w#int8 : f32[12, 12, 1, 1] affine<i8, axis=0>
  %u = const @u#int8 : f32[5, 5, 1, 1] affine<i8, axis=0>
  %v = const @v#int8 : f32[9, 17, 1, 1] affine<i8, axis=0>
  %s = const @s#int8 : f32[3, 8, 1, 1] affine<i8, axis=0>
  %q = quantize %x {_TO_OTHER} : f32[B, 12, 6, 7] {_OTHER}
  %p = quantize %y {_TO_OTHER} : f32[B, 5, 6, 7] {_OTHER}
  %f = conv %q, %w {_POINT} : f32[B, 12, 6, 7]
  %g = conv %p, %u {_POINT} : f32[B, 5, 6, 7]
  %a = quantize %f {_TO_CODE} : f32[B, 12, 6, 7] {_CODE}
  %b = quantize %g {_TO_CODE} : f32[B, 5, 6, 7] {_CODE}
  %c = decode %a : f32[B, 12, 6, 7]
  %d = decode %b : f32[B, 5, 6, 7]
  %j = cat %c, %d {{axis=1}} : f32[B, 17, 6, 7]
  %k = quantize %j {_TO_CODE} : f32[B, 17, 6, 7] {_CODE}
  %z = conv %k, %v {_POINT} : f32[B, 9, 6, 7]
  %m = neg %j : f32[B, 17, 6, 7]
  %h, %i = split %j {{axis=1, sizes=[8, 9]}} : f32[B, 8, 6, 7], f32[B, 9, 6, 7]
  %n = quantize %h {_TO_CODE} : f32[B, 8, 6, 7] {_CODE}
  %o = conv %n, %s {_POINT} : f32[B, 3, 6, 7]
  %r = relu %i : f32[B, 9, 6, 7]
  %e = decode %q : f32[B, 12, 6, 7]
  %t = cat %e, %d {{axis=1}} : f32[B, 17, 6, 7]
  %l = abs %t : f32[B, 17, 6, 7]
  %xx = cat %r, %h {{axis=1}} : f32[B, 17, 6, 7]
  %yy = add %xx, %m : f32[B, 17, 6, 7]
  return %z, %l, %o, %yy
}}"""

ROWS = f"""graph @rows [B in 1.., S in 1..] (%x: f32[B, S, 24], %y: f32[B, 3, 24]) -> (f32[B, S + 3, 5], f32[B, S, 5]) {{
  %w = const @w#int8 : f32[5, 24] affine<i8, axis=0>
  %v = const @v#int8 : f32[5, 7] affine<i8, axis=0>
  %q = quantize %x {_TO_CODE} : f32[B, S, 24] {_CODE}
  %p = quantize %y {_TO_CODE} : f32[B, 3, 24] {_CODE}
  %a = decode %q : f32[B, S, 24]
  %b = decode %p : f32[B, 3, 24]
  %c = cat %a, %b {{axis=1}} : f32[B, S + 3, 24]
  %k = quantize %c {_TO_CODE} : f32[B, S + 3, 24] {_CODE}
  %z = linear %k, %w : f32[B, S + 3, 5]
  %h, %i = split %a {{axis=2, sizes=[17, 7]}} : f32[B, S, 17], f32[B, S, 7]
  %n = quantize %i {_TO_CODE} : f32[B, S, 7] {_CODE}
  %o = linear %n, %v : f32[B, S, 5]
  return %z, %o
}}"""

GRAPHS = (NARROW, WIDE, TOKENS, JOINED, ROWS)


@cache
def executables(isa: str | None) -> dict[str, CpuExecutable]:
    graphs = [graph_of(text) for text in GRAPHS]
    for graph in graphs:
        PassManager("fuse").run(graph, Context(target="cpu"))
    found = BACKEND.compile_many(graphs, CompileOptions(isa=isa, threads=2))
    return {text: e for text, e in zip(GRAPHS, found) if isinstance(e, CpuExecutable)}


@each_isa
@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_that_are_averaged_joined_and_split_agree_with_the_reference(isa: str | None, batch: int) -> None:
    torch.manual_seed(batch)
    made = executables(isa)
    for text, channels in ((NARROW, 12), (WIDE, 70)):
        check(made[text], [2 * torch.randn(batch, channels, 9, 10)], tolerance=LOOSE)
    for length in (1, 19):
        check(made[TOKENS], [2 * torch.randn(batch, length, 37), torch.randn(batch, 37, length)], tolerance=LOOSE)
        check(made[ROWS], [2 * torch.randn(batch, length, 24), torch.randn(batch, 3, 24)], tolerance=LOOSE)
    check(made[JOINED], [torch.randn(batch, 12, 6, 7), torch.randn(batch, 5, 6, 7)], tolerance=LOOSE)


def test_bytes_are_averaged_without_floats_between() -> None:
    for text in (NARROW, WIDE):
        names = kernel_names(executables(None)[text], B=1)
        assert "decode" not in names and names.count("quantize") == 1, names
        assert [n for n in names if n in ("avg_pool", "mean", "adaptive_avg_pool")] == \
            ["avg_pool", "mean", "adaptive_avg_pool", "avg_pool"]
    assert kernel_names(executables(None)[TOKENS], B=2, S=3)[:3] == ["quantize", "mean", "linear_i8"]


def test_bytes_of_one_scale_are_joined_and_split_as_bytes() -> None:
    names = kernel_names(executables(None)[ROWS], B=1, S=4)
    assert names == ["quantize", "quantize", "copy", "copy", "linear_i8", "copy", "linear_i8"], names
    names = kernel_names(executables(None)[JOINED], B=1)
    assert names.count("quantize") == 2, names
