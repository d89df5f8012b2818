"""Layers whose operator a pass has nothing for are told, whatever the pass."""

from __future__ import annotations

import pytest
import torch

from mcomp.ir import parse_graph
from tests.compress.graphs import compressed, conv, random
from tests.passes.test_quantize import LSTM

PRODUCTS = """
graph @g[B in 1..](%x: f32[3, B, 16]) -> (f32[3, B, 12], f32[3, B, 8]) {
  %w = const @each.weight#seed=1 : f32[3, 16, 12]  loc(each)
  %y = matmul %x, %w : f32[3, B, 12]  loc(each)
  %v = const @pair.weight#seed=2 : f32[8, 16, 16]  loc(pair)
  %z = bilinear %x, %x, %v : f32[3, B, 8]  loc(pair)
  return %y, %z
}"""


@pytest.mark.parametrize(("pipeline", "lacks"), [
    ("quantize", "has no kernel for integer weights"), ("lowrank{max_error=1.0}", "has no low-rank form"),
    ("prune{what=blocks}", "has no block-sparse form"), ("prune{what=nm}", "has no n:m sparse form"),
])
def test_products_that_a_pass_has_nothing_for(pipeline: str, lacks: str) -> None:
    graph, context, error = compressed(parse_graph(PRODUCTS, generate=True), pipeline, [[random(3, 20, 16)]])
    assert error == 0 and not graph.ledger
    told = [(r.layer, r.reason) for r in context.remarks if r.kind == "missed" and r.remedy and lacks in r.reason]
    assert told == [("each", f"matmul {lacks}"), ("pair", f"bilinear {lacks}")]


@pytest.mark.parametrize("pipeline", ["prune{what=blocks}", "prune{what=nm}"])
def test_convolutions_where_linear_layers_become_sparse(pipeline: str) -> None:
    _, context, _ = compressed(conv(), pipeline, [[random(4, 12, 8, 8)]])
    assert [r.layer for r in context.remarks if r.kind == "missed" and "conv has no" in r.reason] == ["c"]


def test_recurrent_layers_have_no_low_rank_form() -> None:
    graph = parse_graph(LSTM, generate=True)
    _, context, _ = compressed(graph, "lowrank{max_error=1.0}", [[torch.randn(2, 5, 24)]])
    assert [r.layer for r in context.remarks if "lstm has no low-rank form" in r.reason] == ["l"]
    _, context, _ = compressed(graph, "lowrank{max_error=1.0}", [[torch.randn(2, 5, 24)]], exclude=["l"])
    assert not [r for r in context.remarks if r.kind == "missed"]
