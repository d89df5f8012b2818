"""Attention in graphs: over bytes, with masks, and with what precedes and what follows it in the same kernel."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.manager import Context
from mcomp.manager.run import PassManager
from tests.cpu.backend_harness import check, compiled, each_float_isa, each_isa, graph_of, kernel_names, needs_compiler

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


@each_float_isa
def test_what_follows_attention_is_stored_by_it(isa: str | None) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(2, 3, 17, 8), torch.rand(3, 1, 8) + 0.5, torch.randn(17, 17)]
    check(compiled(EPILOGUE, isa=isa, among=ALL), inputs, tolerance=ROUNDED)
    check(compiled(MIXED, isa=isa, among=ALL), [torch.randn(3, 9, 8) for _ in range(3)])


def test_bytes_are_multiplied_not_decoded() -> None:
    assert kernel_names(compiled(BYTES, among=ALL), B=1) == ["quantize", "quantize", "quantize", "attention"]
    assert kernel_names(compiled(EPILOGUE, among=ALL), B=1)[0] == "attention"
    assert "quantize" not in kernel_names(compiled(EPILOGUE, among=ALL), B=1)


def _rotary(dim: int, *, views: bool, interleaved: bool, grouped: bool, dtype: str = "f32", more: str = "") -> str:
    """Attention with turned queries and keys: of heads that are views of [B, S, H, D] or that lie as they are read."""
    keys = 2 if grouped else 4
    given = {n: f"{dtype}[B, S, {h}, {dim}]" if views else f"{dtype}[B, {h}, S, {dim}]" for n, h in (("q", 4), ("k", keys))}
    heads = {n: f"{dtype}[B, {h}, S, {dim}]" for n, h in (("q", 4), ("k", keys))}
    table = f"{dtype}[B, 1, S, {dim}]" if interleaved else f"{dtype}[S, {dim}]"
    lines = [
        f"%{n}h = permute %{n} {{order=[0, 2, 1, 3]}} : {heads[n]}" if views else f"%{n}h = contiguous %{n} : {heads[n]}"
        for n in "qk"
    ]
    attrs = f"{{interleaved={'true' if interleaved else 'false'}}}"
    lines += [f"%{n}r = rope %{n}h, %c, %s {attrs} : {heads[n]}" for n in "qk"]
    lines.append(f"%y = attention %qr, %kr, %v {{causal={'true' if views else 'false'}, "
                 f"grouped={'true' if grouped else 'false'}}} : {heads['q']}")
    lines.append(more or f"%z = contiguous %y : {heads['q']}")
    body = "\n  ".join(lines)
    name = f"rotary{dim}{'v' if views else ''}{'i' if interleaved else ''}{'g' if grouped else ''}"
    return f"""graph @{name} [B in 1.., S in 1..]
    (%q: {given['q']}, %k: {given['k']}, %v: {heads['k']}, %c: {table}, %s: {table}) -> ({heads['q']}) {{
  {body}
  return %z
}}"""


ROTARY = {
    _rotary(8, views=True, interleaved=False, grouped=True): 8,
    _rotary(20, views=False, interleaved=True, grouped=True): 20,
    _rotary(64, views=True, interleaved=True, grouped=False, more="%z = neg %y : f32[B, 4, S, 64]"): 64,
    _rotary(160, views=False, interleaved=False, grouped=False): 160,
    _rotary(32, views=True, interleaved=False, grouped=True, dtype="bf16"): 32,
}

CACHED = """graph @cached [B in 1.., S in 1..]
    (%q: f32[B, 4, 1, 8], %k: f32[B, 4, S, 8], %v: f32[B, 4, S, 8], %c: f32[8], %s: f32[8])
    -> (f32[B, 4, 1, 8], f32[B, 4, S, 8]) {
  %qr = rope %q, %c, %s : f32[B, 4, 1, 8]
  %kr = rope %k, %c, %s : f32[B, 4, S, 8]
  %y = attention %qr, %kr, %v : f32[B, 4, 1, 8]
  return %y, %kr
}"""


@cache
def rotary(isa: str | None) -> dict[str, CpuExecutable]:
    texts = [*ROTARY, CACHED, CACHED.replace("%y, %kr", "%y, %k")]
    graphs = [graph_of(text) for text in texts]
    for graph in graphs:
        PassManager("fuse").run(graph, Context(target="cpu"))
    found = BACKEND.compile_many(graphs, CompileOptions(isa=isa, threads=2))
    return {text: e for text, e in zip(texts, found) if isinstance(e, CpuExecutable)}


@each_float_isa
@pytest.mark.parametrize("length", [1, 3, 7, 40, 131])
def test_queries_and_keys_are_turned_as_attention_reads_them(isa: str | None, length: int) -> None:
    torch.manual_seed(length)
    for text in ROTARY:
        executable = rotary(isa)[text]
        inputs = []
        for value in executable.graph.inputs:
            shape = [{"B": 2, "S": length}.get(str(d), d) for d in value.tensor.shape]
            given = torch.randn([int(d) for d in shape])
            inputs.append(given.bfloat16() if value.tensor.dtype.name == "bf16" else given)
        check(executable, inputs, tolerance=1e-2 if inputs[0].dtype is torch.bfloat16 else 2e-6)


@each_float_isa
def test_keys_that_others_read_or_that_are_many_are_turned_first(isa: str | None) -> None:
    torch.manual_seed(2)
    inputs = [torch.randn(2, 4, 1, 8), torch.randn(2, 4, 30, 8), torch.randn(2, 4, 30, 8), torch.randn(8), torch.randn(8)]
    for text in (CACHED, CACHED.replace("%y, %kr", "%y, %k")):
        check(rotary(isa)[text], inputs)
        assert kernel_names(rotary(isa)[text], B=1, S=5)[:2] == ["rope", "attention"]


def test_turning_and_attention_are_one_kernel() -> None:
    for text in ROTARY:
        assert kernel_names(rotary(None)[text], B=1, S=20) == ["attention"], text
