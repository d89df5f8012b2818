"""Int8: quantized activations and weights on the byte kernels, and what has none on decoded numbers."""

from __future__ import annotations

from collections import Counter

import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from tests.cpu.backend_harness import check, compiled, each_isa, graph_of, kernel_names, needs_compiler

pytestmark = needs_compiler

DYNAMIC = """graph @dynamic [B in 1..] (%x: f32[B, 3, 37]) -> (f32[B, 3, 19], f32[B, 3, 19]) {
  %w = const @w#int8 : f32[19, 37] affine<i8, axis=0>
  %b = const @b#seed=2 : f32[19]
  %q = quantize %x {dtype=!i8} : f32[B, 3, 37] affine<i8, axis=[0, 1]>
  %y = linear %q, %w, %b : f32[B, 3, 19]
  %u = quantize %x {dtype=!u8, zero_point=true} : f32[B, 3, 37] affine<u8, axis=[0, 1], zero_point=true>
  %z = linear %u, %w, %b : f32[B, 3, 19]
  return %y, %z
}"""

STATIC = """graph @static [B in 1..] (%x: f32[B, 37]) -> (f32[B, 5]) {
  %w = const @w#int8 : f32[19, 37] affine<i8, axis=0>
  %v = const @v#int8 : f32[5, 19] affine<i8>
  %q = quantize %x {dtype=!i8, scale=0.02} : f32[B, 37] affine<i8, scale=0.02>
  %h = fused %q, %w {kind="epilogue", body=graph @body [B in 1..]
      (%q: f32[B, 37] affine<i8, scale=0.02>, %w: f32[19, 37] affine<i8, axis=0>)
      -> (f32[B, 19] affine<u8, scale=0.1, zero=3>) {
    %h = linear %q, %w : f32[B, 19]
    %r = relu %h : f32[B, 19]
    %o = quantize %r {dtype=!u8, scale=0.1, zero=3} : f32[B, 19] affine<u8, scale=0.1, zero=3>
    return %o
  }} : f32[B, 19] affine<u8, scale=0.1, zero=3>
  %y = linear %h, %v : f32[B, 5]
  return %y
}"""

CONVOLUTIONS = """graph @convolutions [B in 1..] (%x: f32[B, 8, 9, 10])
    -> (f32[B, 16, 9, 10], f32[B, 8, 5, 5], f32[B, 8, 9, 10]) {
  %w = const @w#int8 : f32[16, 8, 3, 3] affine<i8, axis=0>
  %d = const @d#int8 : f32[8, 1, 3, 3] affine<i8, axis=0>
  %g = const @g#int8 : f32[8, 4, 3, 3] affine<i8, axis=0>
  %b = const @b#seed=2 : f32[16]
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 8, 9, 10] affine<u8, scale=0.03, zero=120>
  %t = quantize %x {dtype=!i8, axis=[]} : f32[B, 8, 9, 10] affine<i8>
  %y = conv %q, %w, %b {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 16, 9, 10]
  %z = conv %t, %g {stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=2} : f32[B, 8, 5, 5]
  %e = conv %q, %d {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=8} : f32[B, 8, 9, 10]
  return %y, %z, %e
}"""

IMAGES = """graph @images [B in 1..] (%x: f32[B, 3, 19, 23]) -> (f32[B, 32, 10, 12]) {
  %w = const @w#int8 : f32[32, 3, 3, 3] affine<i8, axis=0>
  %d = const @d#int8 : f32[32, 1, 5, 5] affine<i8, axis=0>
  %b = const @b#seed=2 : f32[32]
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 3, 19, 23] affine<u8, scale=0.03, zero=120>
  %y = conv %q, %w, %b {stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 32, 10, 12]
  %c = hardtanh %y {min=0.0, max=6.0} : f32[B, 32, 10, 12]
  %r = quantize %c {dtype=!u8, scale=0.03} : f32[B, 32, 10, 12] affine<u8, scale=0.03>
  %z = fused %r, %d, %b {kind="epilogue", body=graph @body [B in 1..]
      (%r: f32[B, 32, 10, 12] affine<u8, scale=0.03>, %d: f32[32, 1, 5, 5] affine<i8, axis=0>, %b: f32[32])
      -> (f32[B, 32, 10, 12] affine<i8, scale=0.1, zero=-20>) {
    %h = conv %r, %d, %b {stride=[1,1], padding=[[2,2],[2,2]], dilation=[1,1], groups=32} : f32[B, 32, 10, 12]
    %a = relu %h : f32[B, 32, 10, 12]
    %o = quantize %a {dtype=!i8, scale=0.1, zero=-20} : f32[B, 32, 10, 12] affine<i8, scale=0.1, zero=-20>
    return %o
  }} : f32[B, 32, 10, 12] affine<i8, scale=0.1, zero=-20>
  %e = decode %z : f32[B, 32, 10, 12]
  return %e
}"""

WEIGHT_ONLY = """graph @weight_only [B in 1..] (%x: f32[B, 64]) -> (f32[B, 16], f32[B, 16]) {
  %w = const @w#int8 : f32[16, 64] affine<i4, group=32, axis=0>
  %v = const @v#int8 : f32[16, 64] affine<i8, axis=0>
  %y = linear %x, %w : f32[B, 16]
  %z = linear %x, %v : f32[B, 16]
  return %y, %z
}"""

FEW_PLANES = """graph @few_planes [B in 1..] (%x: f32[B, 3, 4, 8], %z: f32[B, 4, 5, 8])
    -> (f32[B, 6, 4, 8], f32[B, 96], f32[B, 4, 5, 16]) {
  %v = const @v#int8 : f32[6, 3, 1, 1] affine<i8, axis=0>
  %w = const @w#int8 : f32[16, 8] affine<i8, axis=0>
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 3, 4, 8] affine<u8, scale=0.03, zero=120>
  %y = conv %q, %v {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 6, 4, 8]
  %d = decode %q : f32[B, 3, 4, 8]
  %r = reshape %d {shape=[B, 96]} : f32[B, 96]
  %c = quantize %z {dtype=!u8, scale=0.03, zero=120} : f32[B, 4, 5, 8] affine<u8, scale=0.03, zero=120>
  %l = linear %c, %w : f32[B, 4, 5, 16]
  return %y, %r, %l
}"""

COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 17, 18, 24, 31, 33, 40)


def _ragged() -> str:
    """Convolutions that give bytes of so many channels, each plain and depthwise behind that."""

    def step(name: str, x: str, given: str, weight: str, n: int, groups: int) -> str:
        made = f"f32[B, {n}, 6, 7]"
        shape = f"f32[{n}, {8 if groups == 1 else 1}, 3, 3] affine<i8, axis=0>"
        conv = f"{{stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups={groups}}}"
        return f"""
  %{weight} = const @{weight}#int8 : {shape}
  %{name} = fused %{x}, %{weight} {{kind="epilogue", body=graph @body [B in 1..]
      (%i: {given}, %w: {shape}) -> ({made} affine<u8, scale=0.1>) {{
    %h = conv %i, %w {conv} : {made}
    %a = relu %h : {made}
    %o = quantize %a {{dtype=!u8, scale=0.1}} : {made} affine<u8, scale=0.1>
    return %o
  }}}} : {made} affine<u8, scale=0.1>"""

    source = "f32[B, 8, 6, 7] affine<u8, scale=0.03, zero=120>"
    lines = []
    for n in COUNTS:
        coded = f"f32[B, {n}, 6, 7] affine<u8, scale=0.1>"
        lines += [
            step(f"y{n}", "q", source, f"w{n}", n, 1), step(f"z{n}", f"y{n}", coded, f"v{n}", n, n) if n > 1 else "",
            f"\n  %d{n} = decode %{'z' if n > 1 else 'y'}{n} : f32[B, {n}, 6, 7]",
        ]
    types = ", ".join(f"f32[B, {n}, 6, 7]" for n in COUNTS)
    return f"""graph @ragged [B in 1..] (%x: f32[B, 8, 6, 7]) -> ({types}) {{
  %q = quantize %x {{dtype=!u8, scale=0.03, zero=120}} : {source}{"".join(lines)}
  return {", ".join(f"%d{n}" for n in COUNTS)}
}}"""


RAGGED = _ragged()
ALL = (DYNAMIC, STATIC, CONVOLUTIONS, IMAGES, WEIGHT_ONLY, FEW_PLANES, RAGGED)
# One activation in a thousand may round to the neighbouring integer.
LOOSE = 5e-3


@each_isa
def test_int8_graphs_agree_with_the_reference(isa: str | None) -> None:
    torch.manual_seed(3)
    for batch in (1, 6):
        check(compiled(DYNAMIC, isa=isa, among=ALL), [torch.randn(batch, 3, 37)], tolerance=LOOSE)
        check(compiled(STATIC, isa=isa, among=ALL), [torch.randn(batch, 37)], tolerance=LOOSE)
        check(compiled(CONVOLUTIONS, isa=isa, among=ALL), [torch.randn(batch, 8, 9, 10)], tolerance=LOOSE)
        check(compiled(IMAGES, isa=isa, among=ALL), [torch.randn(batch, 3, 19, 23)], tolerance=LOOSE)
        check(compiled(WEIGHT_ONLY, isa=isa, among=ALL), [torch.randn(batch, 64)])
        planes = [torch.randn(batch, 3, 4, 8), torch.randn(batch, 4, 5, 8)]
        check(compiled(FEW_PLANES, isa=isa, among=ALL), planes, tolerance=LOOSE)
        check(compiled(RAGGED, isa=isa, among=ALL), [torch.randn(batch, 8, 6, 7)], tolerance=LOOSE)


def test_bytes_are_multiplied_not_decoded() -> None:
    assert kernel_names(compiled(DYNAMIC, among=ALL), B=1) == ["quantize_rows", "linear_i8", "quantize_rows", "linear_i8"]
    assert kernel_names(compiled(STATIC, among=ALL), B=1) == ["quantize", "linear_i8", "linear_i8"]
    assert kernel_names(compiled(CONVOLUTIONS, among=ALL), B=1).count("conv_i8") == 3
    assert kernel_names(compiled(IMAGES, among=ALL), B=1)[:2] == ["quantize", "conv_i8"]
    assert "linear_i8" in kernel_names(compiled(FEW_PLANES, among=ALL), B=1)
    assert Counter(kernel_names(compiled(RAGGED, among=ALL), B=1)).keys() == {"quantize", "conv_i8", "copy", "decode"}
    assert not any("decode" in n for t in ALL[:3] for n in kernel_names(compiled(t, among=ALL), B=1))


def test_infinities_do_not_pass_for_numbers() -> None:
    executable = compiled(DYNAMIC, among=ALL)
    x = torch.randn(1, 3, 37)
    x[0, 1, 5] = float("inf")
    found = executable.run([x], {"B": 1})[0]
    assert not torch.isfinite(found[0, 1]).any()
    assert torch.isfinite(found[0, 0]).all() and torch.isfinite(found[0, 2]).all()

POOLED = """graph @pooled [B in 1..] (%x: f32[B, 8, 9, 10]) -> (f32[B, 4, 5, 5], f32[B, 8, 5, 5]) {
  %w = const @w#int8 : f32[4, 8, 1, 1] affine<i8, axis=0>
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, 8, 9, 10] affine<u8, scale=0.03, zero=120>
  %d = decode %q : f32[B, 8, 9, 10]
  %p = max_pool %d {kernel=[3,3], stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1]} : f32[B, 8, 5, 5]
  %r = quantize %p {dtype=!u8, scale=0.03, zero=120} : f32[B, 8, 5, 5] affine<u8, scale=0.03, zero=120>
  %y = conv %r, %w {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 4, 5, 5]
  %n = neg %p : f32[B, 8, 5, 5]
  return %y, %n
}"""

CLAMPED = """graph @clamped [B in 1..] (%x: f32[B, 37]) -> (f32[B, 5]) {
  %w = const @w#int8 : f32[45, 37] affine<i8, axis=0>
  %v = const @v#int8 : f32[5, 45] affine<i8>
  %b = const @b#seed=2 : f32[45]
  %q = quantize %x {dtype=!i8, scale=0.02} : f32[B, 37] affine<i8, scale=0.02>
  %h = fused %q, %w, %b {kind="epilogue", body=graph @body [B in 1..]
      (%q: f32[B, 37] affine<i8, scale=0.02>, %w: f32[45, 37] affine<i8, axis=0>, %b: f32[45])
      -> (f32[B, 45] affine<i8, scale=0.05, zero=-60>) {
    %h = linear %q, %w, %b : f32[B, 45]
    %r = hardtanh %h {min=-0.5, max=6.0} : f32[B, 45]
    %o = quantize %r {dtype=!i8, scale=0.05, zero=-60} : f32[B, 45] affine<i8, scale=0.05, zero=-60>
    return %o
  }} : f32[B, 45] affine<i8, scale=0.05, zero=-60>
  %y = linear %h, %v : f32[B, 5]
  return %y
}"""


@each_isa
def test_bytes_are_pooled_as_they_are(isa: str | None) -> None:
    torch.manual_seed(5)
    for batch in (1, 3):
        check(compiled(POOLED, isa=isa, among=(POOLED, CLAMPED)), [3 * torch.randn(batch, 8, 9, 10)], tolerance=LOOSE)
    names = kernel_names(compiled(POOLED, isa=isa, among=(POOLED, CLAMPED)))
    assert names.count("quantize") == 1, names


@each_isa
def test_clamps_before_bytes_stay_inside_their_bounds(isa: str | None) -> None:
    torch.manual_seed(6)
    executable = compiled(CLAMPED, isa=isa, among=(POOLED, CLAMPED))
    for batch in (1, 5, 33):
        check(executable, [4 * torch.randn(batch, 37)], tolerance=LOOSE)
    assert "Requantize<int8_t>" in executable.source()


HEADS = """graph @heads [B in 1.., S in 1..] (%x: f32[B, S, 32]) -> (f32[B, S, 32]) {
  %w = const @w#int8 : f32[32, 32] affine<i8, axis=0>
  %f = const @f#seed=4 : f32[1, 4, 1, 8]
  %q = quantize %x {dtype=!u8, scale=0.03, zero=120} : f32[B, S, 32] affine<u8, scale=0.03, zero=120>
  %l = linear %q, %w : f32[B, S, 32]
  %c = quantize %l {dtype=!i8, scale=0.2} : f32[B, S, 32] affine<i8, scale=0.2>
  %d = decode %c : f32[B, S, 32]
  %v = reshape %d {shape = [B, S, 4, 8]} : f32[B, S, 4, 8]
  %p = permute %v {order = [0, 2, 1, 3]} : f32[B, 4, S, 8]
  %k = quantize %p {dtype=!i8, scale=0.2} : f32[B, 4, S, 8] affine<i8, scale=0.2>
  %a = attention %k, %k, %k : f32[B, 4, S, 8]
  %m = mul %a, %f : f32[B, 4, S, 8]
  %e = quantize %m {dtype=!u8, scale=0.05, zero=99} : f32[B, 4, S, 8] affine<u8, scale=0.05, zero=99>
  %g = decode %e : f32[B, 4, S, 8]
  %t = permute %g {order = [0, 2, 1, 3]} : f32[B, S, 4, 8]
  %r = reshape %t {shape = [B, S, 32]} : f32[B, S, 32]
  %o = quantize %r {dtype=!u8, scale=0.05, zero=99} : f32[B, S, 32] affine<u8, scale=0.05, zero=99>
  %y = linear %o, %w : f32[B, S, 32]
  return %y
}"""


@each_isa
def test_views_of_bytes_stay_bytes(isa: str | None) -> None:
    torch.manual_seed(8)
    graph = graph_of(HEADS)
    PassManager("fuse").run(graph, Context(target="cpu"))
    executable = BACKEND.compile(graph, CompileOptions(isa=isa, threads=2), Context(target="cpu"))
    assert isinstance(executable, CpuExecutable)
    for batch, length in ((1, 20), (2, 7)):
        x = torch.randn(batch, length, 32)
        (found,), (exact,) = executable.run([x], {"B": batch, "S": length}), run_graph(graph_of(HEADS), [x])
        assert (found - exact).norm() < 0.03 * exact.norm()
    assert kernel_names(executable, B=1, S=20) == ["quantize", "linear_i8", "attention", "linear_i8"]
