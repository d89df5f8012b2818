"""Refusals: each leaves a remark that says what layer, why, and what would help."""

from __future__ import annotations

import pytest
import torch

from mcomp.ir import Graph, parse_graph
from mcomp.manager import Context, PassManager
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, conv, mlp, random
from tests.compress.networks import NETWORKS
from tests.compress.test_together import example
from tests.passes.test_quantize import ATTENTION, LSTM

PIPELINES = (
    "quantize", "quantize{bits=4,activations=dynamic},quantize", "lowrank{tables=true},lowrank{ratio=0.01}",
    "prune{what=[channels,ffn,heads,stream],ratio=0.05},prune{what=branches,ratio=0.01}",
    "prune{what=blocks},prune{what=nm},prune{ratio=0.5}", 'treat{choices=["nothing=int8"]}',
)


def missed(context: Context, part: str = "") -> list[str]:
    """The layers of missed remarks with something in their reason."""
    return [r.layer for r in context.remarks if r.kind == "missed" and part in r.reason and r.remedy]


@pytest.mark.parametrize("name", [*NETWORKS, "bert", "llama", "vit", "gpt2", "t5"])
def test_refusals_say_where_why_and_what_helps(name: str) -> None:
    graph, inputs = example(name)
    told = []
    for pipeline in PIPELINES:
        context = Context(calibration=Calibration([inputs]))
        PassManager(pipeline).run(graph.clone(), context)
        told += [r for r in context.remarks if r.kind == "missed"]
    assert told and not [str(r) for r in told if not (r.layer and r.reason and r.remedy)]


def test_layers_that_no_data_reaches() -> None:
    text = """
    graph @g[B in 0..](%x: f32[B, 5, 24]) -> (f32[B, 5, 16]) {
      %w = const @l.weight#seed=1 : f32[16, 24]  loc(l)
      %y = linear %x, %w : f32[B, 5, 16]  loc(l)
      return %y
    }"""
    graph, empty = parse_graph(text, generate=True), [[torch.zeros(0, 5, 24)]]
    for pipeline in ("quantize", "lowrank", "prune{what=blocks,block=[4,4]}", 'treat{choices=["y=channel 4"]}'):
        context = Context(calibration=Calibration(empty))
        PassManager(pipeline).run(graph.clone(), context)
        assert missed(context, "calibration data never reached it") == ["l"], pipeline


def test_convolutions_have_no_dynamic_activations() -> None:
    _, context, _ = compressed(conv(), "quantize{activations=dynamic}", [[random(4, 12, 8, 8)]])
    assert missed(context, "activations of conv are static") == ["c"]
    _, context, _ = compressed(conv(), "quantize", [[random(4, 12, 8, 8)]])
    assert not missed(context)


@pytest.mark.parametrize(("pipeline", "kinds"), [
    ("prune{what=heads}", ["heads"]), ("prune{what=[stream,ffn,heads]}", ["stream", "heads"]), ("prune", []),
    ("prune{what=[channels,ffn]}", []),
])
def test_kinds_of_units_that_a_graph_has_none_of(pipeline: str, kinds: list[str]) -> None:
    _, context, _ = compressed(mlp(), pipeline, [[random(100, 64)]])
    assert [r.reason for r in context.remarks if r.layer == "mlp"] == [f"it has no {kind} that can go" for kind in kinds]


def test_shares_of_no_units() -> None:
    graph, context, _ = compressed(mlp(), "prune{ratio=0.01}", [[random(100, 64)]])
    assert not graph.ledger and missed(context, "1% of its 96 ffn is none: 10 stay at least, by steps of 8") == ["fc1"]
    _, context, _ = compressed(mlp(), "prune{ratio=0.0}", [[random(100, 64)]])
    assert not missed(context, "is none")


def test_attention_of_a_few_queries() -> None:
    graph, inputs = parse_graph(ATTENTION, generate=True), [random(2, 2, 5, 8, seed=i) for i in range(3)]
    found, context, _ = compressed(graph, "quantize", [inputs])
    assert not found.ledger and missed(context, "with 5 queries") == ["attn"]
    found, context, _ = compressed(graph, "quantize{attention=true}", [inputs])
    assert found.ledger and not missed(context)


def test_training_without_values_to_match() -> None:
    _, context, _ = compressed(mlp(), "prune{ratio=0.5},distill{features=1.0,steps=10,rate=0.01}", [[random(100, 64)]])
    assert missed(context, "no value inside is trained") == ["mlp"]


def branches() -> Graph:
    """Two layers, one in each branch of a condition: its weight is given from outside, and its own constant."""
    return parse_graph("""
    graph @g[B in 1..](%p: bool[], %x: f32[B, 16]) -> (f32[B, 16]) {
      %w = const @outer.weight#seed=1 : f32[16, 16]  loc(outer)
      %y = cond %p, %x, %w {then = graph @then[B in 1..](%a: f32[B, 16], %u: f32[16, 16]) -> (f32[B, 16]) {
        %s = linear %a, %u : f32[B, 16]  loc(one)
        return %s
      }, else = graph @else[B in 1..](%a: f32[B, 16], %u: f32[16, 16]) -> (f32[B, 16]) {
        %v = const @two.weight#seed=2 : f32[16, 16]  loc(two)
        %t = linear %a, %v : f32[B, 16]  loc(two)
        return %t
      }} : f32[B, 16]
      return %y
    }""", generate=True)


@pytest.mark.parametrize("pipeline", ["quantize", "lowrank", "prune", "prune{what=blocks}"])
def test_layers_in_branches_of_conditions(pipeline: str) -> None:
    inputs = [[torch.tensor(True), random(20, 16)]]
    _, context, _ = compressed(branches(), pipeline, inputs)
    assert missed(context, "in a nested graph, of cond") == ["one", "two"]
    _, context, _ = compressed(branches(), pipeline, inputs, exclude=["one", "two"])
    assert not missed(context, "in a nested graph")


def test_recurrent_layers_of_other_types() -> None:
    graph = parse_graph(LSTM.replace("f32", "f64"), generate=True)
    context = Context(calibration=Calibration([[torch.randn(2, 5, 24, dtype=torch.float64)]]))
    PassManager("quantize").run(graph, context)
    assert missed(context, "not plain f32") == ["l"]
