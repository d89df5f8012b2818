"""Norms, softmax along other axes and products of experts with what follows them as one kernel, in both layouts."""

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

LINES = """graph @lines [B in 1..] (%x: f32[B, 6, 3, 149], %y: f32[6, 1, 149], %v: f32[6])
    -> (f32[B, 6, 3, 149], f32[B, 6, 3, 149], f32[B, 6, 3, 149], f32[B, 6, 3, 149]) {
  %g = const @g#seed=1 : f32[6]
  %b = const @b#seed=2 : f32[6]
  %n = batch_norm %x, %b, %v, %g, %b {eps=1e-3} : f32[B, 6, 3, 149]
  %r = relu %n : f32[B, 6, 3, 149]
  %m = group_norm %x, %g, %b {groups=2, eps=1e-5} : f32[B, 6, 3, 149]
  %s = silu %m : f32[B, 6, 3, 149]
  %t = mul %s, %y : f32[B, 6, 3, 149]
  %p = softmax %x {axis=1} : f32[B, 6, 3, 149]
  %q = sub %p, %y : f32[B, 6, 3, 149]
  %l = log_softmax %x {axis=2} : f32[B, 6, 3, 149]
  %e = neg %l : f32[B, 6, 3, 149]
  return %r, %t, %q, %e
}"""


SHORT = """graph @short [B in 1..] (%x: f32[B, 6, 9, 5], %y: f32[6, 1, 5], %z: f32[B, 6, 9, 5], %v: f32[6])
    -> (f32[B, 6, 9, 5], f32[B, 6, 9, 5], f32[B, 6, 9, 5]) {
  %g = const @g#seed=1 : f32[6]
  %n = batch_norm %x, %g, %v {eps=1e-3} : f32[B, 6, 9, 5]
  %r = relu %n : f32[B, 6, 9, 5]
  %a = add %r, %z : f32[B, 6, 9, 5]
  %m = group_norm %x, %g {groups=2, eps=1e-5} : f32[B, 6, 9, 5]
  %t = mul %m, %y : f32[B, 6, 9, 5]
  %p = softmax %x {axis=1} : f32[B, 6, 9, 5]
  %q = exp %p : f32[B, 6, 9, 5]
  return %a, %t, %q
}"""


def _channels(channels: int, groups: int) -> str:
    """Convolutions, which are channels-last, with norms and a softmax between them."""
    shape, weight = f"f32[B, {channels}, 5, 7]", f"f32[{channels}, {channels}, 1, 1]"
    code = "affine<u8, scale=0.03, zero=40>"
    conv = "{stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1}"
    return f"""graph @channels{channels} [B in 1..] (%x: {shape}) -> ({shape}, {shape}, {shape}) {{
  %w = const @w#seed=1 : {weight}
  %k = const @k#int8 : {weight} affine<i8, axis=0>
  %g = const @g#seed=1 : f32[{channels}]
  %b = const @b#seed=2 : f32[{channels}]
  %v = const @v#seed=3 : f32[{channels}]
  %u = square %v : f32[{channels}]
  %h = conv %x, %w {conv} : {shape}
  %n = batch_norm %h, %b, %u, %g, %b {{eps=1e-3}} : {shape}
  %a = relu %n : {shape}
  %y = conv %a, %w {conv} : {shape}
  %m = group_norm %y, %g, %b {{groups={groups}, eps=1e-5}} : {shape}
  %s = silu %m : {shape}
  %q = quantize %s {{dtype=!u8, scale=0.03, zero=40}} : {shape} {code}
  %z = conv %q, %k {conv} : {shape}
  %i = group_norm %h {{groups={channels}, eps=1e-5}} : {shape}
  %t = add %i, %y : {shape}
  %o = conv %t, %w {conv} : {shape}
  %p = softmax %y {{axis=1}} : {shape}
  %f = mul %p, %y : {shape}
  %c = conv %f, %w {conv} : {shape}
  return %z, %o, %c
}}"""


NARROW, WIDE = _channels(20, 4), _channels(300, 2)

TYPES = """graph @types [B in 1..] (%h: bf16[B, 8, 40], %d: f64[B, 8, 40], %x: f32[B, 12], %v: f64[8])
    -> (bf16[B, 8, 40], f64[B, 8, 40], f32[B, 12], bf16[B, 8, 40]) {
  %g = const @g#seed=1 : f64[8]
  %m = group_norm %h {groups=4, eps=1e-5} : bf16[B, 8, 40]
  %a = silu %m : bf16[B, 8, 40]
  %n = batch_norm %d, %g, %v {eps=1e-3} : f64[B, 8, 40]
  %b = neg %n : f64[B, 8, 40]
  %k = group_norm %x {groups=3, eps=1e-5} : f32[B, 12]
  %c = abs %k : f32[B, 12]
  %s = softmax %h {axis=1} : bf16[B, 8, 40]
  %e = neg %s : bf16[B, 8, 40]
  return %a, %b, %c, %e
}"""

EXPERTS = """graph @experts [N in 1..] (%x: f32[N, 20], %o: i32[3], %y: f32[N, 70]) -> (f32[N, 70], f32[N, 70]) {
  %w = const @w#seed=1 : f32[3, 20, 70]
  %p = grouped_matmul %x, %w, %o : f32[N, 70]
  %c = cos %p : f32[N, 70]
  %a = add %c, %y : f32[N, 70]
  %r = grouped_matmul %a2, %w2, %o : f32[N, 70]
  return %a, %r
}""".replace("%a2, %w2", "%x, %w")

GRAPHS = (LINES, SHORT, NARROW, WIDE, TYPES, EXPERTS)
# One element in a thousand may round to the neighbouring integer.
LOOSE = 5e-3


@cache
def executables(isa: str | None) -> dict[str, CpuExecutable]:
    graphs = [graph_of(text) for text in GRAPHS]
    for graph in graphs:
        PassManager("fuse").run(graph, Context(target="cpu"))
    found = BACKEND.compile_many(graphs, CompileOptions(isa=isa, threads=2))
    return {text: e for text, e in zip(GRAPHS, found) if isinstance(e, CpuExecutable)}


@each_isa
@pytest.mark.parametrize("batch", [1, 3])
def test_norms_with_what_follows_agree_with_the_reference(isa: str | None, batch: int) -> None:
    torch.manual_seed(batch)
    made = executables(isa)
    check(made[LINES], [torch.randn(batch, 6, 3, 149), torch.randn(6, 1, 149), torch.rand(6) + 0.1])
    check(made[SHORT], [torch.randn(batch, 6, 9, 5), torch.randn(6, 1, 5), torch.randn(batch, 6, 9, 5), torch.rand(6) + 0.1])
    for text, channels in ((NARROW, 20), (WIDE, 300)):
        check(made[text], [torch.randn(batch, channels, 5, 7)], tolerance=LOOSE)
    check(made[TYPES], [torch.randn(batch, 8, 40).bfloat16(), torch.randn(batch, 8, 40).double(), torch.randn(batch, 12),
                        torch.rand(8).double() + 0.1], tolerance=LOOSE)


@each_isa
@pytest.mark.parametrize("offsets", [[2, 2, 9], [0, 5, 7], [0, 0, 0], [1, 4, 11]])
def test_experts_with_what_follows(isa: str | None, offsets: list[int]) -> None:
    """Rows past the last offset are zero before what follows."""
    torch.manual_seed(4)
    check(executables(isa)[EXPERTS], [torch.randn(11, 20), torch.tensor(offsets, dtype=torch.int32), torch.randn(11, 70)])


def test_a_norm_and_what_follows_are_one_kernel() -> None:
    made = executables(None)
    assert kernel_names(made[LINES], B=1) == ["batch_norm", "group_norm", "softmax", "log_softmax"]
    assert kernel_names(made[SHORT], B=1) == ["batch_norm", "group_norm", "mul", "softmax"]
    assert kernel_names(made[TYPES], B=1) == ["group_norm", "batch_norm", "group_norm", "softmax"]
    assert kernel_names(made[EXPERTS], N=4) == ["grouped_matmul", "grouped_matmul"]
    for text in (NARROW, WIDE):
        names = [n for n in kernel_names(made[text], B=1) if n not in ("copy", "square")]
        assert sorted(set(names)) == ["batch_norm", "conv", "conv_i8", "group_norm", "mul", "softmax"], names
