"""Reductions with the element-wise nodes before them as one kernel: along rows and columns, over axes that lie apart."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.manager import Context
from mcomp.manager.run import PassManager
from tests.cpu.backend_harness import check, each_float_isa, graph_of, kernel_names, needs_compiler

pytestmark = needs_compiler

SIMPLE = ("sum", "mean", "amax", "amin", "prod", "norm")
WHOLE_ROWS = ("var", "std", "logsumexp")


def _rows(width: int) -> str:
    """Every reduction along rows of this width, each of a chain of its own."""
    lines, results, types = [], [], []
    for i, name in enumerate((*SIMPLE, *WHOLE_ROWS)):
        more = ", p=1.0" if name == "norm" else ""
        lines.append(f"%c{i} = full {{value={0.5 + 0.01 * i}, shape=[], dtype=!f32}} : f32[]")
        lines.append(f"%m{i} = mul %x, %c{i} : f32[B, 5, {width}]")
        lines.append(f"%t{i} = tanh %m{i} : f32[B, 5, {width}]")
        lines.append(f"%a{i} = add %t{i}, %y : f32[B, 5, {width}]")
        lines.append(f"%r{i} = {name} %a{i} {{axes=[2]{more}}} : f32[B, 5]")
        results.append(f"%r{i}")
        types.append("f32[B, 5]")
    body = "\n  ".join(lines)
    return f"""graph @rows{width} [B in 1..] (%x: f32[B, 5, {width}], %y: f32[{width}]) -> ({', '.join(types)}) {{
  {body}
  return {', '.join(results)}
}}"""


NARROW, RAGGED, LONG = _rows(1), _rows(37), _rows(4171)

POOLED = """graph @pooled [B in 1.., S in 1..] (%x: f32[B, S, 70], %m: f32[B, S, 1])
    -> (f32[B, 70], f32[B, 1, 70], f32[B, 70], f32[B, 70]) {
  %a = mul %x, %m : f32[B, S, 70]
  %s = sum %a {axes=[1]} : f32[B, 70]
  %c = sigmoid %x : f32[B, S, 70]
  %k = mean %c {axes=[1], keepdim=true} : f32[B, 1, 70]
  %d = sub %x, %m : f32[B, S, 70]
  %l = amax %d {axes=[1]} : f32[B, 70]
  %e = abs %d : f32[B, S, 70]
  %n = norm %e {axes=[1], p=3.0} : f32[B, 70]
  return %s, %k, %l, %n
}"""

IMAGES = """graph @images [B in 1..] (%x: f32[B, 9, 7, 20], %y: f32[20, 1, 1])
    -> (f32[B, 20], f32[B, 20, 1, 1], f32[B, 9, 7], f32[B, 9]) {
  %p = permute %x {order=[0, 3, 1, 2]} : f32[B, 20, 9, 7]
  %a = add %p, %y : f32[B, 20, 9, 7]
  %m = mean %a {axes=[2, 3]} : f32[B, 20]
  %h = hardswish %p : f32[B, 20, 9, 7]
  %k = amax %h {axes=[2, 3], keepdim=true} : f32[B, 20, 1, 1]
  %e = exp %p : f32[B, 20, 9, 7]
  %s = sum %e {axes=[1]} : f32[B, 9, 7]
  %q = mul %p, %y : f32[B, 20, 9, 7]
  %v = var %q {axes=[1, 3], correction=0.0} : f32[B, 9]
  return %m, %k, %s, %v
}"""

APART = """graph @apart [B in 1..] (%x: f32[6, B, 4, 21], %y: f32[6, 1, 4, 1], %z: f32[21, 6, 4])
    -> (f32[B, 4], f32[6, 1, 1, 21], f32[], f32[6, 4], f32[4]) {
  %a = mul %x, %y : f32[6, B, 4, 21]
  %s = sum %a {axes=[0, 3]} : f32[B, 4]
  %b = exp %a : f32[6, B, 4, 21]
  %m = mean %b {axes=[1, 2], keepdim=true} : f32[6, 1, 1, 21]
  %c = square %x : f32[6, B, 4, 21]
  %t = sum %c {axes=[0, 1, 2, 3]} : f32[]
  %p = permute %z {order=[1, 2, 0]} : f32[6, 4, 21]
  %n = neg %p : f32[6, 4, 21]
  %l = logsumexp %n {axes=[2]} : f32[6, 4]
  %d = sin %p : f32[6, 4, 21]
  %v = std %d {axes=[0, 2]} : f32[4]
  return %s, %m, %t, %l, %v
}"""

TYPES = """graph @types [B in 1..] (%h: bf16[B, 90], %f: f16[B, 90], %d: f64[B, 90], %i: i64[B, 90], %j: i32[B, 3, 90])
    -> (bf16[B], f16[B], f64[B], i64[B], i32[B, 90], bool[B], bool[B], f64[B]) {
  %a = relu %h : bf16[B, 90]
  %s = mean %a {axes=[1]} : bf16[B]
  %b = abs %f : f16[B, 90]
  %l = amax %b {axes=[1]} : f16[B]
  %c = exp %d : f64[B, 90]
  %t = sum %c {axes=[1]} : f64[B]
  %e = mul %i, %i : i64[B, 90]
  %u = sum %e {axes=[1]} : i64[B]
  %g = neg %j : i32[B, 3, 90]
  %m = amin %g {axes=[1]} : i32[B, 90]
  %z = full {value=8, shape=[], dtype=!i64} : i64[]
  %k = gt %i, %z : bool[B, 90]
  %o = any %k {axes=[1]} : bool[B]
  %n = le %i, %z : bool[B, 90]
  %q = all %n {axes=[1]} : bool[B]
  %r = neg %d : f64[B, 90]
  %v = var %r {axes=[1]} : f64[B]
  return %s, %l, %t, %u, %m, %o, %q, %v
}"""

GRAPHS = (NARROW, RAGGED, LONG, POOLED, IMAGES, APART, TYPES)


@cache
def executables(isa: str | None) -> dict[str, CpuExecutable]:
    graphs = [graph_of(text) for text in GRAPHS]
    for graph in graphs:
        PassManager("fuse").run(graph, Context(target="cpu"))
    found = BACKEND.compile_many(graphs, CompileOptions(isa=isa, threads=2))
    return {text: e for text, e in zip(GRAPHS, found) if isinstance(e, CpuExecutable)}


@each_float_isa
@pytest.mark.parametrize("batch", [1, 3])
def test_reductions_of_chains_agree_with_the_reference(isa: str | None, batch: int) -> None:
    torch.manual_seed(batch)
    made = executables(isa)
    for text, width in ((RAGGED, 37), (LONG, 4171)):
        check(made[text], [torch.randn(batch, 5, width), torch.randn(width)], tolerance=5e-6)
    for length in (1, 7, 300):
        check(made[POOLED], [torch.randn(batch, length, 70), torch.rand(batch, length, 1)], tolerance=5e-6)
    check(made[IMAGES], [torch.randn(batch, 9, 7, 20), torch.randn(20, 1, 1)], tolerance=5e-6)
    check(made[APART], [torch.randn(6, batch, 4, 21), torch.randn(6, 1, 4, 1), torch.randn(21, 6, 4)], tolerance=5e-6)


@each_float_isa
def test_rows_of_one_element_and_other_types(isa: str | None) -> None:
    torch.manual_seed(5)
    made = executables(isa)
    one = [torch.randn(2, 5, 1), torch.randn(1)]
    found = made[NARROW].run(one, {"B": 2})
    exact = torch.tanh(one[0].double() * 0.5) + one[1].double()
    for result in found[:1]:
        assert torch.allclose(result.double(), exact[..., 0], atol=1e-6)
    assert torch.isnan(found[6]).all() and torch.isnan(found[7]).all()
    wide = [torch.randn(4, 90).bfloat16(), torch.randn(4, 90).half(), torch.randn(4, 90).double(),
            torch.randint(-9, 10, (4, 90)), torch.randint(-9, 10, (4, 3, 90), dtype=torch.int32)]
    check(made[TYPES], wide, tolerance=5e-3)


def test_a_reduction_and_its_chain_are_one_kernel() -> None:
    made = executables(None)
    for text in (RAGGED, LONG):
        assert kernel_names(made[text], B=2) == [*SIMPLE, *WHOLE_ROWS]
    assert kernel_names(made[IMAGES], B=2) == ["mean", "amax", "sum", "var"]
    assert kernel_names(made[TYPES], B=2) == ["mean", "amax", "sum", "sum", "amin", "any", "all", "var"]
    assert "pointwise" not in kernel_names(made[POOLED], B=2, S=3)


def test_logsumexp_of_rows_that_are_not_finite() -> None:
    """Blocks of -inf before others, +inf and NaN, values whose exponentials overflow."""
    width, inf = 4171, float("inf")
    x = torch.zeros(1, 5, width)
    y = torch.full((width,), -inf)
    y[3000], y[4000] = -1e4, 1e4
    found = executables(None)[LONG].run([x, y], {"B": 1})[8]
    assert torch.allclose(found, torch.tensor(1e4))
    y[2500] = inf
    assert (executables(None)[LONG].run([x, y], {"B": 1})[8] == inf).all()
    y[10] = float("nan")
    assert torch.isnan(executables(None)[LONG].run([x, y], {"B": 1})[8]).all()
    y = torch.full((width,), -inf)
    assert (executables(None)[LONG].run([x, y], {"B": 1})[8] == -inf).all()
