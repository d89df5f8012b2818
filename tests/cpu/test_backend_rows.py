"""Norms with what surrounds them as one kernel: several results, bytes among them; element-wise nodes that end in bytes."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.backend import lower_graph
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.manager import Context
from mcomp.manager.run import PassManager
from tests.cpu.backend_harness import check, each_isa, graph_of, kernel_names, needs_compiler

pytestmark = needs_compiler

STATIC = """graph @static [B in 1..] (%x: f32[B, 5, 37], %y: f32[B, 5, 37]) -> (f32[B, 5, 37], f32[B, 5, 19]) {
  %g = const @g#seed=1 : f32[37]
  %b = const @b#seed=2 : f32[37]
  %s = const @s#seed=3 : f32[37]
  %w = const @w#int8 : f32[19, 37] affine<i8, axis=0>
  %a = add %x, %y : f32[B, 5, 37]
  %n = layer_norm %a, %g, %b {axes_count=1, eps=1e-5} : f32[B, 5, 37]
  %m = mul %n, %s : f32[B, 5, 37]
  %q = quantize %m {dtype=!u8, scale=0.05, zero=100} : f32[B, 5, 37] affine<u8, scale=0.05, zero=100>
  %z = linear %q, %w : f32[B, 5, 19]
  return %n, %z
}"""

DYNAMIC = """graph @dynamic [B in 1..] (%x: f32[5, B, 80]) -> (f32[B, 5, 19], f32[B, 5, 19], f32[B, 5, 80]) {
  %g = const @g#seed=1 : f32[80]
  %w = const @w#int8 : f32[19, 80] affine<i8, axis=0>
  %p = permute %x {order=[1, 0, 2]} : f32[B, 5, 80]
  %n = rms_norm %p, %g {axes_count=1, eps=1e-5, offset=1.0} : f32[B, 5, 80]
  %q = quantize %n {dtype=!i8} : f32[B, 5, 80] affine<i8, axis=[0, 1]>
  %t = tanh %n : f32[B, 5, 80]
  %u = quantize %t {dtype=!u8, zero_point=true} : f32[B, 5, 80] affine<u8, axis=[0, 1], zero_point=true>
  %d = sub %t, %p : f32[B, 5, 80]
  %z = linear %q, %w : f32[B, 5, 19]
  %v = linear %u, %w : f32[B, 5, 19]
  return %z, %v, %d
}"""

SCORES = """graph @scores [B in 1..] (%x: f32[B, 3, 4, 21], %m: f32[B, 1, 1, 21]) -> (f32[B, 3, 4, 21], f32[B, 3, 4, 21]) {
  %c = full {value=0.3, shape=[], dtype=!f32} : f32[]
  %s = mul %x, %c : f32[B, 3, 4, 21]
  %a = add %s, %m : f32[B, 3, 4, 21]
  %p = softmax %a {axis=3} : f32[B, 3, 4, 21]
  %o = neg %p : f32[B, 3, 4, 21]
  %l = log_softmax %x {axis=3} : f32[B, 3, 4, 21]
  %e = abs %l : f32[B, 3, 4, 21]
  return %o, %e
}"""

AXES = """graph @axes [B in 1..] (%x: bf16[B, 6, 7], %y: bf16[B, 1, 7], %g: bf16[6, 7]) -> (bf16[B, 6, 7], f32[B, 6, 7]) {
  %n = layer_norm %x, %g {axes_count=2, eps=1e-5} : bf16[B, 6, 7]
  %r = relu %n : bf16[B, 6, 7]
  %a = add %x, %y : bf16[B, 6, 7]
  %m = layer_norm %a {axes_count=1, eps=1e-5} : bf16[B, 6, 7]
  %f = cast %m {dtype=!f32} : f32[B, 6, 7]
  return %r, %f
}"""

SMOOTH = """graph @smooth [B in 1..] (%x: f32[B, 5, 70]) -> (f32[B, 5, 70], f32[B, 5, 19]) {
  %s = const @s#seed=3 : f32[70]
  %w = const @w#int8 : f32[19, 70] affine<i8, axis=0>
  %t = tanh %x : f32[B, 5, 70]
  %m = mul %t, %s : f32[B, 5, 70]
  %q = quantize %m {dtype=!i8, scale=0.02} : f32[B, 5, 70] affine<i8, scale=0.02>
  %z = linear %q, %w : f32[B, 5, 19]
  return %t, %z
}"""

GRAPHS = (STATIC, DYNAMIC, SCORES, AXES, SMOOTH)
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
def test_row_regions_agree_with_the_reference(isa: str | None, batch: int) -> None:
    torch.manual_seed(batch)
    made = executables(isa)
    check(made[STATIC], [torch.randn(batch, 5, 37), torch.randn(batch, 5, 37)], tolerance=LOOSE)
    check(made[DYNAMIC], [torch.randn(5, batch, 80)], tolerance=LOOSE)
    check(made[SCORES], [torch.randn(batch, 3, 4, 21) * 4, torch.randn(batch, 1, 1, 21)])
    check(made[SMOOTH], [torch.randn(batch, 5, 70)], tolerance=LOOSE)
    check(made[AXES],
          [torch.randn(batch, 6, 7).bfloat16(), torch.randn(batch, 1, 7).bfloat16(), torch.randn(6, 7).bfloat16()],
          tolerance=LOOSE)


def test_a_row_region_is_one_kernel() -> None:
    made = executables(None)
    assert kernel_names(made[STATIC], B=1) == ["layer_norm", "linear_i8"]
    assert kernel_names(made[DYNAMIC], B=1) == ["rms_norm", "linear_i8", "linear_i8"]
    assert kernel_names(made[SCORES], B=1) == ["softmax", "log_softmax"]
    assert kernel_names(made[SMOOTH], B=1) == ["pointwise", "linear_i8"]
    assert kernel_names(made[AXES], B=1) == ["layer_norm", "layer_norm"]


def test_a_row_that_is_not_finite_stays_alone() -> None:
    x = torch.randn(5, 1, 80)
    x[1, 0, 5] = float("inf")
    found = executables(None)[DYNAMIC].run([x], {"B": 1})
    for result in found:
        assert torch.isfinite(result[0, 0]).all() and not torch.isfinite(result[0, 1]).all()
        assert torch.isfinite(result[0, 2:]).all()


@pytest.mark.parametrize(("scale", "also", "coarse"), [(0.05, "", True), (0.001, "", False), (0.05, ", %g", False)])
def test_gelu_is_coarse_only_before_coarse_bytes(scale: float, also: str, coarse: bool) -> None:
    """Where someone reads the result itself, or the bytes are fine, the full function is called."""
    encoding = f"affine<i8, scale={scale}>"
    results = f"f32[4, 8] {encoding}" + (", f32[4, 8]" if also else "")
    graph = graph_of(f"""graph @g (%x: f32[4, 8]) -> ({results}) {{
  %g = gelu %x : f32[4, 8]
  %q = quantize %g {{dtype=!i8, scale={scale}}} : f32[4, 8] {encoding}
  return %q{also}
}}""")
    PassManager("fuse").run(graph, Context(target="cpu"))
    bodies = [s.kernel.body for part in lower_graph(graph, None).segments for s in part.steps]
    assert any("gelu_erf_coarse(" in body for body in bodies) == coarse
    assert any("gelu_erf(" in body for body in bodies) != coarse
