"""Attention written out with masks: what masks hide stays hidden, and what is NaN stays NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.zoo_check import Interpreted, compare
from mcomp.capture import capture
from mcomp.ir import parse_graph, verify
from mcomp.ir.dtypes import to_torch
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph

MASKED = """graph @g(%q: HALF[2, 5, 4], %k: HALF[2, 4, 7], %v: HALF[2, 7, 4], %keep: bool[5, 7]) -> (HALF[2, 5, 4]) {
  %zero = full {value = 0.0, shape = [], dtype = !f32} : f32[]
  %low = full {value = -3.4028234663852886e+38, shape = [], dtype = !f32} : f32[]
  %s = matmul %q, %k : HALF[2, 5, 7]
  %c = cast %s {dtype = !f32} : f32[2, 5, 7]
  HIDDEN
  %p = softmax %w {axis = 2} : f32[2, 5, 7]
  %h = cast %p {dtype = !HALF} : HALF[2, 5, 7]
  %y = matmul %h, %v : HALF[2, 5, 4]
  return %y
}"""

HALVES = pytest.mark.parametrize("half", ["f16", "bf16"])


def rewritten(text: str, half: str) -> tuple[set[str], list[Any], list[Any]]:
    """The operators that are left of a graph with `HALF` types, and its results before and after."""
    graph = parse_graph(text.replace("HALF", half))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.zeros(v.tensor.static_shape, dtype=torch.bool) if v.tensor.dtype.kind == "bool"
        else torch.randn(v.tensor.static_shape, generator=generator).to(to_torch(v.tensor.dtype)) for v in graph.inputs
    ]
    before = run_graph(graph, inputs)
    PassManager("simplify,dce").run(graph, Context())
    verify(graph)
    return {n.op.name for n in graph.nodes}, list(before), list(run_graph(graph, inputs))


@HALVES
def test_attention_takes_values_of_a_narrower_type(half: str) -> None:
    left, before, after = rewritten("""graph @g(%q: HALF[2, 5, 4], %k: HALF[2, 4, 7], %v: HALF[2, 7, 4]) -> (HALF[2, 5, 4]) {
  %a = cast %q {dtype = !f32} : f32[2, 5, 4]
  %b = cast %k {dtype = !f32} : f32[2, 4, 7]
  %s = matmul %a, %b : f32[2, 5, 7]
  %p = softmax %s {axis = 2} : f32[2, 5, 7]
  %h = cast %p {dtype = !HALF} : HALF[2, 5, 7]
  %y = matmul %h, %v : HALF[2, 5, 4]
  return %y
}""", half)
    assert "attention" in left
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)


@HALVES
def test_attention_leaves_values_of_a_wider_type(half: str) -> None:
    left, before, after = rewritten("""graph @g(%q: HALF[2, 5, 4], %k: HALF[2, 4, 7], %v: f32[2, 7, 4]) -> (f32[2, 5, 4]) {
  %s = matmul %q, %k : HALF[2, 5, 7]
  %p = softmax %s {axis = 2} : HALF[2, 5, 7]
  %w = cast %p {dtype = !f32} : f32[2, 5, 7]
  %y = matmul %w, %v : f32[2, 5, 4]
  return %y
}""", half)
    assert "attention" not in left
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@HALVES
@pytest.mark.parametrize("hidden", [
    "%w = where %keep, %c, %low : f32[2, 5, 7]",
    "%m = where %keep, %zero, %low : f32[5, 7]\n  %w = add %c, %m : f32[2, 5, 7]",
])
def test_numbers_that_halves_do_not_hold_hide_no_row_of_attention(half: str, hidden: str) -> None:
    left, before, after = rewritten(MASKED.replace("HIDDEN", hidden), half)
    assert "attention" not in left
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)
    assert not any(bool((one == 0).all()) for one in after)


@HALVES
def test_masks_that_halves_hold_are_attention_s(half: str) -> None:
    text = MASKED.replace("HIDDEN", """%t = tanh %bias : HALF[5, 7]
  %m = cast %t {dtype = !f32} : f32[5, 7]
  %w = add %c, %m : f32[2, 5, 7]""")
    left, before, after = rewritten(text.replace("bool", "HALF").replace("keep", "bias"), half)
    assert "attention" in left
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)


def still_hidden(text: str, half: str) -> set[str]:
    """The operators that are left where every row is hidden, which gives NaN before and after."""
    left, before, after = rewritten(text, half)
    assert all(bool(one.isnan().all()) for one in before)
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    return left


ROUNDED_MASK = MASKED.replace("%c = cast %s {dtype = !f32} : f32[2, 5, 7]", """%m = where %keep, %zero, %low : f32[5, 7]
  %n = cast %m {dtype = !HALF} : HALF[5, 7]""").replace("HIDDEN", "%w = add %s, %n : HALF[2, 5, 7]").replace(
    "%p = softmax %w {axis = 2} : f32", "%p = softmax %w {axis = 2} : HALF"
).replace("  %h = cast %p {dtype = !HALF} : HALF[2, 5, 7]\n", "").replace("matmul %h", "matmul %p")
"""What is added is rounded to a half, in which it is -inf."""

ROUNDED_SCORES = """graph @g(%q: f32[2, 5, 4], %k: f32[2, 4, 7], %v: f32[2, 7, 4], %keep: bool[5, 7]) -> (f32[2, 5, 4]) {
  %zero = full {value = 0.0, shape = [], dtype = !f32} : f32[]
  %low = full {value = -3.4028234663852886e+38, shape = [], dtype = !f32} : f32[]
  %s = matmul %q, %k : f32[2, 5, 7]
  HIDDEN
  %c = cast %w {dtype = !HALF} : HALF[2, 5, 7]
  %p = softmax %c {axis = 2} : HALF[2, 5, 7]
  %h = cast %p {dtype = !f32} : f32[2, 5, 7]
  %y = matmul %h, %v : f32[2, 5, 4]
  return %y
}"""
"""Scores that are hidden are rounded to a half, in which they are -inf."""

SUMMED = ROUNDED_SCORES.replace("HIDDEN", """%m = where %keep, %zero, %low : f32[5, 7]
  %w = add %s, %m : f32[2, 5, 7]""")


@HALVES
@pytest.mark.parametrize("text", [
    ROUNDED_MASK, SUMMED, ROUNDED_SCORES.replace("HIDDEN", "%w = where %keep, %s, %low : f32[2, 5, 7]"),
])
def test_masks_that_a_cast_makes_infinite_may_hide_rows(half: str, text: str) -> None:
    assert "attention" not in still_hidden(text, half)


def test_products_that_a_cast_makes_infinite_may_hide_rows() -> None:
    text = ROUNDED_MASK.replace("-3.4028234663852886e+38", "-1e9").replace("%m = where %keep, %zero, %low", """\
%u = cast %keep {dtype = !f32} : f32[5, 7]
  %one = full {value = 1.0, shape = [], dtype = !f32} : f32[]
  %i = sub %one, %u : f32[5, 7]
  %m = mul %i, %low""")
    assert "attention" not in still_hidden(text, "f16")


@HALVES
@pytest.mark.parametrize("text", [ROUNDED_MASK, SUMMED])
def test_masks_that_keep_a_column_of_every_row_stay_attention_s(half: str, text: str) -> None:
    kept = """%true = full {value = true, shape = [5, 7], dtype = !bool} : bool[5, 7]
  %kept = tril %true {diagonal = 0} : bool[5, 7]
  %m = where %kept,"""
    left, before, after = rewritten(text.replace("%m = where %keep,", kept), half)
    assert "attention" in left
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)


def one_row() -> torch.Tensor:
    return torch.ones(1, 5, dtype=torch.bool).tril()


def one_row_of_indices() -> torch.Tensor:
    return torch.arange(5) <= torch.arange(1)[:, None]


def one_row_of_numbers() -> torch.Tensor:
    return torch.where(one_row(), torch.zeros(4, 5), torch.full((), -torch.inf))


def one_column_of_indices() -> torch.Tensor:
    return torch.arange(1) <= torch.arange(4)[:, None].expand(4, 5)


def whole() -> torch.Tensor:
    return torch.ones(4, 5, dtype=torch.bool).tril()


def whole_of_indices() -> torch.Tensor:
    return torch.arange(5) <= torch.arange(4)[:, None]


@pytest.mark.parametrize("mask", [
    one_row, one_row_of_indices, one_row_of_numbers, one_column_of_indices, whole, whole_of_indices,
])
def test_masks_that_are_stretched_are_not_causal(mask: Any) -> None:
    class Masked(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask())

    model, inputs = Masked().eval(), (torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8))
    program = capture(model, inputs, dynamic=False).program
    assert program is not None
    PassManager("simplify,dce").run(program.graph)
    verify(program.graph)
    attention = next(n for n in program.graph.nodes if n.op.name == "attention")
    assert attention.attrs["causal"] is mask.__name__.startswith("whole")
    assert compare(model, Interpreted(program), inputs, {}) <= 1e-5
