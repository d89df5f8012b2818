"""Attention in graphs: over bytes, with masks, and with what follows it in the same kernel."""

from __future__ import annotations

import torch

from tests.cpu.backend_harness import check, compiled, each_isa, kernel_names, needs_compiler

pytestmark = needs_compiler

BYTES = """graph @bytes [B in 1..] (%q: f32[B, 4, 21, 8], %k: f32[B, 2, 30, 8], %v: f32[B, 2, 30, 8], %m: bool[B, 1, 1, 30])
    -> (f32[B, 4, 21, 8]) {
  %a = quantize %q {dtype=!i8, scale=0.03} : f32[B, 4, 21, 8] affine<i8, scale=0.03>
  %b = quantize %k {dtype=!i8, scale=0.03} : f32[B, 2, 30, 8] affine<i8, scale=0.03>
  %c = quantize %v {dtype=!i8, scale=0.025, zero=-9} : f32[B, 2, 30, 8] affine<i8, scale=0.025, zero=-9>
  %y = attention %a, %b, %c, %m {grouped=true} : f32[B, 4, 21, 8]
  return %y
}"""

EPILOGUE = """graph @epilogue [B in 1..] (%x: f32[B, 3, 17, 8], %s: f32[3, 1, 8], %m: f32[17, 17]) -> (f32[B, 17, 3, 8]) {
  %h = fused %x, %s, %m {kind="epilogue", body=graph @body [B in 1..]
      (%x: f32[B, 3, 17, 8], %s: f32[3, 1, 8], %m: f32[17, 17])
      -> (f32[B, 3, 17, 8] affine<u8, scale=0.02, zero=128>) {
    %y = attention %x, %x, %x, %m {causal=true, scale=0.2} : f32[B, 3, 17, 8]
    %z = mul %y, %s : f32[B, 3, 17, 8]
    %o = quantize %z {dtype=!u8, scale=0.02, zero=128} : f32[B, 3, 17, 8] affine<u8, scale=0.02, zero=128>
    return %o
  }} : f32[B, 3, 17, 8] affine<u8, scale=0.02, zero=128>
  %p = permute %h {order=[0, 2, 1, 3]} : f32[B, 17, 3, 8]
  return %p
}"""

MIXED = """graph @mixed (%q: f32[3, 9, 8], %k: f32[3, 9, 8], %v: f32[3, 9, 8]) -> (f32[3, 9, 8]) {
  %a = quantize %q {dtype=!i8, scale=0.03} : f32[3, 9, 8] affine<i8, scale=0.03>
  %y = attention %a, %k, %v : f32[3, 9, 8]
  return %y
}"""

ALL = (BYTES, EPILOGUE, MIXED)
# A 255th of the largest weights, and now and then a byte next to the right one.
ROUNDED = 1e-2


@each_isa
def test_attention_over_bytes_agrees_with_the_reference(isa: str | None) -> None:
    torch.manual_seed(1)
    for batch in (1, 3):
        q, k, v = torch.randn(batch, 4, 21, 8), torch.randn(batch, 2, 30, 8), torch.randn(batch, 2, 30, 8)
        mask = torch.rand(batch, 1, 1, 30) > 0.3
        check(compiled(BYTES, isa=isa, among=ALL), [q, k, v, mask], tolerance=ROUNDED)


@each_isa
def test_what_follows_attention_is_stored_by_it(isa: str | None) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(2, 3, 17, 8), torch.rand(3, 1, 8) + 0.5, torch.randn(17, 17)]
    check(compiled(EPILOGUE, isa=isa, among=ALL), inputs, tolerance=ROUNDED)
    check(compiled(MIXED, isa=isa, among=ALL), [torch.randn(3, 9, 8) for _ in range(3)])


def test_bytes_are_multiplied_not_decoded() -> None:
    assert kernel_names(compiled(BYTES, among=ALL), B=1) == ["quantize", "quantize", "quantize", "attention"]
    assert kernel_names(compiled(EPILOGUE, among=ALL), B=1)[0] == "attention"
    assert "quantize" not in kernel_names(compiled(EPILOGUE, among=ALL), B=1)
