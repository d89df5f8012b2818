"""Bytes that are averaged as they are."""

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

GRAPHS = (NARROW, WIDE, TOKENS)


@cache
def executables(isa: str | None) -> dict[str, CpuExecutable]:
    graphs = [graph_of(text) for text in GRAPHS]
    for graph in graphs:
        PassManager("fuse").run(graph, Context(target="cpu"))
    found = BACKEND.compile_many(graphs, CompileOptions(isa=isa, threads=2))
    return {text: e for text, e in zip(GRAPHS, found) if isinstance(e, CpuExecutable)}


@each_isa
@pytest.mark.parametrize("batch", [1, 3])
def test_averages_of_bytes_agree_with_the_reference(isa: str | None, batch: int) -> None:
    torch.manual_seed(batch)
    made = executables(isa)
    for text, channels in ((NARROW, 12), (WIDE, 70)):
        check(made[text], [2 * torch.randn(batch, channels, 9, 10)], tolerance=LOOSE)
    for length in (1, 19):
        check(made[TOKENS], [2 * torch.randn(batch, length, 37), torch.randn(batch, 37, length)], tolerance=LOOSE)


def test_bytes_are_averaged_without_floats_between() -> None:
    for text in (NARROW, WIDE):
        names = kernel_names(executables(None)[text], B=1)
        assert "decode" not in names and names.count("quantize") == 1, names
        assert [n for n in names if n in ("avg_pool", "mean", "adaptive_avg_pool")] == \
            ["avg_pool", "mean", "adaptive_avg_pool", "avg_pool"]
    assert kernel_names(executables(None)[TOKENS], B=2, S=3)[:3] == ["quantize", "mean", "linear_i8"]
