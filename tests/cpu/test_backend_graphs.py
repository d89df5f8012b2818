"""Whole small graphs, with symbolic sizes, on every instruction set that this machine runs."""

from __future__ import annotations

import pytest
import torch

from tests.cpu.backend_harness import check, compiled, each_float_isa, kernel_names, needs_compiler

pytestmark = needs_compiler

MLP = """graph @mlp [B in 0..] (%x: f32[B, 3, 20]) -> (f32[B, 3, 5]) {
  %w1 = const @w1#seed=1 : f32[33, 20]
  %b1 = const @b1#seed=2 : f32[33]
  %w2 = const @w2#seed=3 : f32[5, 33]
  %h = linear %x, %w1, %b1 : f32[B, 3, 33]
  %g = gelu %h : f32[B, 3, 33]
  %y = linear %g, %w2 : f32[B, 3, 5]
  return %y
}"""

LOOKUP = """graph @lookup [B in 0..] (%i: i64[B]) -> (f32[B, 6]) {
  %w = const @w#seed=9 : f32[500, 6]
  %y = embedding %w, %i : f32[B, 6]
  return %y
}"""

CNN = """graph @cnn [B in 1..] (%x: f32[B, 3, 11, 12]) -> (f32[B, 8, 6, 6], f32[B, 7]) {
  %w1 = const @w1#seed=1 : f32[8, 3, 3, 3]
  %b1 = const @b1#seed=2 : f32[8]
  %w2 = const @w2#seed=3 : f32[8, 1, 3, 3]
  %w3 = const @w3#seed=4 : f32[8, 4, 1, 1]
  %w4 = const @w4#seed=5 : f32[7, 8]
  %c = conv %x, %w1, %b1 {stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 8, 6, 6]
  %g = relu %c : f32[B, 8, 6, 6]
  %d = conv %g, %w2 {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=8} : f32[B, 8, 6, 6]
  %r = add %d, %g : f32[B, 8, 6, 6]
  %p = max_pool %r {kernel=[2,2], stride=[1,1], padding=[[0,1],[0,1]], dilation=[1,1]} : f32[B, 8, 6, 6]
  %s = conv %p, %w3 {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=2} : f32[B, 8, 6, 6]
  %m = mean %s {axes=[2,3]} : f32[B, 8]
  %y = linear %m, %w4 : f32[B, 7]
  return %s, %y
}"""

BLOCK = """graph @block [B in 1.., S in 1..] (%x: f32[B, S, 24], %ids: i64[B, S]) -> (f32[B, S, 24]) {
  %table = const @table#seed=9 : f32[50, 24]
  %w = const @w#seed=1 : f32[72, 24]
  %o = const @o#seed=2 : f32[24, 24]
  %g = const @g#seed=3 : f32[24]
  %e = embedding %table, %ids : f32[B, S, 24]
  %s = add %x, %e : f32[B, S, 24]
  %n = layer_norm %s, %g, %g {axes_count=1, eps=1e-05} : f32[B, S, 24]
  %qkv = linear %n, %w : f32[B, S, 72]
  %parts = reshape %qkv {shape=[B, S, 3, 4, 6]} : f32[B, S, 3, 4, 6]
  %turned = permute %parts {order=[2, 0, 3, 1, 4]} : f32[3, B, 4, S, 6]
  %q = select %turned {axis=0, index=0} : f32[B, 4, S, 6]
  %k = select %turned {axis=0, index=1} : f32[B, 4, S, 6]
  %v = select %turned {axis=0, index=2} : f32[B, 4, S, 6]
  %a = attention %q, %k, %v {causal=true} : f32[B, 4, S, 6]
  %back = permute %a {order=[0, 2, 1, 3]} : f32[B, S, 4, 6]
  %flat = reshape %back {shape=[B, S, 24]} : f32[B, S, 24]
  %p = linear %flat, %o : f32[B, S, 24]
  %y = add %p, %s : f32[B, S, 24]
  return %y
}"""

FUSED = """graph @fused [B in 1..] (%x: f32[B, 3, 20], %r: f32[3, 8]) -> (f32[B, 3, 8], f32[B, 3, 8]) {
  %w = const @w#seed=1 : f32[8, 20]
  %b = const @b#seed=2 : f32[8]
  %o, %s = fused %x, %w, %b, %r {kind="epilogue", body=graph @body [B in 1..]
      (%x: f32[B, 3, 20], %w: f32[8, 20], %b: f32[8], %r: f32[3, 8]) -> (f32[B, 3, 8], f32[B, 3, 8]) {
    %h = linear %x, %w, %b : f32[B, 3, 8]
    %two = full {value=2.0} : f32[]
    %m = mul %h, %two : f32[B, 3, 8]
    %g = silu %m : f32[B, 3, 8]
    %o = add %g, %r : f32[B, 3, 8]
    return %o, %g
  }} : f32[B, 3, 8], f32[B, 3, 8]
  return %o, %s
}"""

SEQUENCE = """graph @sequence [B in 1.., T in 1..] (%x: f32[B, T, 6], %h: f32[2, B, 5], %c: f32[2, B, 5])
    -> (f32[B, T, 10], f32[2, B, 5], f32[2, B, 5]) {
  %wi = const @wi#seed=1 : f32[20, 6]
  %wh = const @wh#seed=2 : f32[20, 5]
  %b = const @b#seed=3 : f32[20]
  %vi = const @vi#seed=4 : f32[20, 6]
  %vh = const @vh#seed=5 : f32[20, 5]
  %y, %hn, %cn = lstm %x, %h, %c, %wi, %wh, %b, %b, %vi, %vh, %b, %b {layers=1, bidirectional=true, batch_first=true}
    : f32[B, T, 10], f32[2, B, 5], f32[2, B, 5]
  return %y, %hn, %cn
}"""

ALL = (MLP, LOOKUP, CNN, BLOCK, FUSED, SEQUENCE)


@each_float_isa
@pytest.mark.parametrize("batch", [1, 4])
def test_graphs_agree_with_the_reference(isa: str | None, batch: int) -> None:
    torch.manual_seed(batch)
    check(compiled(MLP, isa=isa, among=ALL), [torch.randn(batch, 3, 20)])
    check(compiled(CNN, isa=isa, among=ALL), [torch.randn(batch, 3, 11, 12)])
    block = compiled(BLOCK, isa=isa, among=ALL)
    for length in (1, 7, 40):
        check(block, [torch.randn(batch, length, 24), torch.randint(0, 50, (batch, length))], tolerance=5e-6)
    check(compiled(FUSED, isa=isa, among=ALL), [torch.randn(batch, 3, 20), torch.randn(3, 8)])
    check(compiled(SEQUENCE, isa=isa, among=ALL),
          [torch.randn(batch, 9, 6), torch.randn(2, batch, 5), torch.randn(2, batch, 5)])


def test_a_fused_region_is_one_kernel() -> None:
    assert kernel_names(compiled(FUSED, among=ALL), B=2) == ["linear"]


def test_an_empty_batch_gives_an_empty_result() -> None:
    found, = check(compiled(MLP, among=ALL), [torch.randn(0, 3, 20)])
    assert found.shape == (0, 3, 5)


def test_convolutions_stay_channels_last_between_each_other() -> None:
    names = kernel_names(compiled(CNN, among=ALL), B=1)
    assert names.index("copy") == 0, "the input is laid out anew once"
    assert names.count("copy") == 2, "and the result once"


def test_every_kernel_tells_its_layer_and_its_work() -> None:
    infos = compiled(CNN, among=ALL).kernels({"B": 2})
    convolution = next(k for k in infos if k.name == "conv")
    assert convolution.native and convolution.nodes == ("c",)
    assert convolution.flops >= 2 * 2 * 8 * 36 * 27
    assert convolution.weights == 4 * (8 * 27 + 8)


def test_a_lookup_reads_its_rows_only() -> None:
    lookup = compiled(LOOKUP, among=ALL).kernels({"B": 2})[0]
    assert lookup.read == 2 * (8 + 4 * 6) and lookup.weights <= lookup.read


def test_profiles_give_a_time_for_every_kernel() -> None:
    executable = compiled(MLP, among=ALL)
    inputs = [torch.randn(4, 3, 20)]
    times = executable.profile(inputs, {"B": 4}, repeats=2)
    assert len(times) == len(executable.kernels({"B": 4})) and all(t >= 0 for t in times)
