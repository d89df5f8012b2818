"""prune: units that a norm takes its statistics over go only when that is asked for."""

from __future__ import annotations

import pytest

from mcomp.ir import parse_graph
from tests.compress.graphs import compressed, mixed

NORMED = """
graph @normed[B in 1..](%x: f32[B, 16]) -> (f32[B, 8]) {
  %w = const @fc1.weight#seed=1 : f32[32, 16]  loc(fc1)
  %h = linear %x, %w : f32[B, 32]  loc(fc1)
  %g = const @norm.weight#seed=2 : f32[32]  loc(norm)
  %b = const @norm.bias#seed=3 : f32[32]  loc(norm)
  %n = layer_norm %h, %g, %b {axes_count = 1, eps = 1e-05} : f32[B, 32]  loc(norm)
  %r = relu %n : f32[B, 32]  loc(act)
  %v = const @fc2.weight#seed=4 : f32[8, 32]  loc(fc2)
  %y = linear %r, %v : f32[B, 8]  loc(fc2)
  return %y
}"""
GROUPED = """
graph @grouped[B in 1..](%x: f32[B, 4, 6, 6]) -> (f32[B, 5, 6, 6]) {
  %w = const @c1.weight#seed=1 : f32[24, 4, 1, 1]  loc(c1)
  %h = conv %x, %w {stride = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 24, 6, 6]  loc(c1)
  %g = const @norm.weight#seed=2 : f32[24]  loc(norm)
  %b = const @norm.bias#seed=3 : f32[24]  loc(norm)
  %n = group_norm %h, %g, %b {groups = 1, eps = 1e-05} : f32[B, 24, 6, 6]  loc(norm)
  %v = const @c2.weight#seed=4 : f32[5, 24, 1, 1]  loc(c2)
  %y = conv %n, %v {stride = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 5, 6, 6]  loc(c2)
  return %y
}"""


@pytest.mark.parametrize(("text", "shape"), [(NORMED, (300, 16)), (GROUPED, (12, 4, 6, 6))], ids=["layer", "group"])
def test_norms_over_what_goes(text: str, shape: tuple[int, ...]) -> None:
    graph = parse_graph(text, generate=True)
    _, context, error = compressed(graph, "prune{ratio=0.25}", [[mixed(*shape)]])
    (told,) = [r for r in context.remarks if "takes its statistics over it" in r.reason]
    assert error == 0 and told.remedy == "use statistics=true to allow it"
    narrow, context, error = compressed(graph, "prune{ratio=0.25,statistics=true}", [[mixed(*shape)]])
    assert narrow.value("n").tensor.shape[1] == graph.value("n").tensor.shape[1] * 3 // 4
    (entry,) = narrow.ledger
    assert 0 < error < 0.5 and entry.error == pytest.approx(error, rel=0.2)
    assert not [r for r in context.remarks if "takes its statistics over it" in r.reason]
    _, _, unfitted = compressed(graph, "prune{ratio=0.25,statistics=true,refit=false}", [[mixed(*shape)]])
    assert error < unfitted


@pytest.mark.parametrize("pipeline", ["quantize{bits=8}", "prune{ratio=0.25,statistics=true}", "lowrank{ratio=0.5}"])
def test_an_empty_batch_is_no_data(pipeline: str) -> None:
    """As the last batch of a loader may be."""
    graph, batch = parse_graph(GROUPED.replace("B in 1..", "B in 0.."), generate=True), mixed(12, 4, 6, 6)
    whole, _, error = compressed(graph, pipeline, [[batch]])
    found, _, _ = compressed(graph, pipeline, [[batch], [batch[:0]]])
    assert error >= 0 and [n.op.name for n in found.nodes] == [n.op.name for n in whole.nodes]
