"""The bytes in the ledger are those that constants lost, biases that fits add included."""

from __future__ import annotations

import pytest
import torch

from mcomp.ir import Graph, parse_graph
from mcomp.passes.compress.ledger import divided
from tests.compress.graphs import compressed, mixed
from tests.compress.networks import network
from tests.compress.test_shared import size
from tests.compress.test_together import NAMES, TOGETHER, example, together

BARE = """
graph @bare[B in 1..](%x: f32[B, 64]) -> (f32[B, 16]) {
  %w1 = const @body.0.weight#seed=1 : f32[96, 64]  loc(body.0)
  %h = linear %x, %w1 : f32[B, 96]  loc(body.0)
  %r = relu %h : f32[B, 96]  loc(body.1)
  %w2 = const @body.2.weight#seed=2 : f32[64, 96]  loc(body.2)
  %g = linear %r, %w2 : f32[B, 64]  loc(body.2)
  %a = add %g, %x : f32[B, 64]  loc(sum)
  %w3 = const @fc3.weight#seed=3 : f32[64, 64]  loc(fc3)
  %i = linear %a, %w3 : f32[B, 64]  loc(fc3)
  %s = tanh %i : f32[B, 64]  loc(act3)
  %w4 = const @fc4.weight#seed=4 : f32[16, 64]  loc(fc4)
  %y = linear %s, %w4 : f32[B, 16]  loc(fc4)
  return %y
}"""
IMAGES = """
graph @images[B in 1..](%x: f32[B, 3, 8, 8]) -> (f32[B, 4, 8, 8]) {
  %w1 = const @c1.weight#seed=1 : f32[16, 3, 3, 3]  loc(c1)
  %h = conv %x, %w1 {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1]} : f32[B, 16, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 16, 8, 8]  loc(act1)
  %w2 = const @c2.weight#seed=2 : f32[16, 16, 3, 3]  loc(c2)
  %g = conv %r, %w2 {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1]} : f32[B, 16, 8, 8]  loc(c2)
  %s = relu %g : f32[B, 16, 8, 8]  loc(act2)
  %w3 = const @c3.weight#seed=3 : f32[4, 16, 1, 1]  loc(c3)
  %y = conv %s, %w3 {stride = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 4, 8, 8]  loc(c3)
  return %y
}"""
ALONE = (
    "prune{ratio=0.25}", "prune{flops=0.6,rounds=2}", "prune{what=branches,ratio=0.9}",
    'prune{what=[branches,channels,ffn],widths=["a=0","fc3.weight:0=40"]}', "prune{what=blocks,ratio=0.5,block=[8,4]}",
    "prune{what=nm}", "lowrank{ratio=0.7,max_error=9.0,gain=1.0}", "lowrank{ratio=0.7,max_error=9.0,refit=false}",
    "quantize{bits=8}", "quantize{bits=4,max_error=9.0}", "distill{student=narrower,region=body,ratio=0.5,steps=20}",
    "prune{ratio=0.5},distill{steps=20,rate=0.01}",
    'treat{choices=["h=channel 16","i=blocks 8x4 without 0.5, int8 static","y=int8 dynamic"]}',
)


def told(graph: Graph, found: Graph) -> None:
    assert found.ledger
    assert sum(e.bytes_saved for e in found.ledger) == size(graph) - size(found), [vars(e) for e in found.ledger]


@pytest.mark.parametrize("pipeline", ALONE)
def test_each_pass_alone(pipeline: str) -> None:
    graph = parse_graph(BARE, generate=True)
    found, _, _ = compressed(graph, pipeline, [[mixed(200, 64)], [mixed(100, 64, seed=7)]])
    told(graph, found)


@pytest.mark.parametrize("pipeline", [
    "prune{ratio=0.5}", "lowrank{ratio=0.5,max_error=9.0}", "quantize", 'treat{choices=["h=spatial 4","y=int8 static"]}',
])
def test_convolutions_without_bias(pipeline: str) -> None:
    graph = parse_graph(IMAGES, generate=True)
    found, _, _ = compressed(graph, pipeline, [[mixed(6, 8, 8, 3).movedim(-1, 1).contiguous()]])
    told(graph, found)


@pytest.mark.parametrize("what", ["branches", "channels", "stream"])
def test_residual_networks(what: str) -> None:
    graph, inputs = network("resnet-a")
    found, _, _ = compressed(graph, f"prune{{ratio=0.5,what={what}}}", [inputs])
    told(graph, found)


def test_all_together_without_bias() -> None:
    for text, x in ((BARE, mixed(200, 64)), (IMAGES, mixed(6, 8, 8, 3).movedim(-1, 1).contiguous())):
        graph = parse_graph(text, generate=True)
        found, _, _ = compressed(graph, TOGETHER, [[x]])
        told(graph, found)


@pytest.mark.parametrize("name", NAMES)
def test_all_together(name: str) -> None:
    told(example(name)[0], together(name)[0])


def test_parts_add_up_to_the_whole() -> None:
    assert divided(10, [1, 1, 1]) == [3, 4, 3] and divided(-7, [0, 0]) == [-4, -3] and not divided(0, [])
    shares = torch.rand(50, generator=torch.Generator().manual_seed(0)).tolist()
    parts = divided(123456789, shares)
    assert sum(parts) == 123456789 and all(abs(p - 123456789 * s / sum(shares)) <= 1 for p, s in zip(parts, shares))
