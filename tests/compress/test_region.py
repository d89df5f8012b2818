"""Regions: which nodes belong to one, what crosses its border, taking it out and putting something in its place."""

import pytest
import torch

from mcomp.errors import IRError, PassError
from mcomp.ir import Graph, parse_graph, verify
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.region import (
    body_of,
    child_regions,
    merged,
    region_at,
    region_of,
    residual_regions,
    splice,
)

BLOCKS = """
graph @g[B in 1..](%x: f32[B, 8], %m: f32[B, 8]) -> (f32[B, 3]) {
  %one = full {value = 1.0, shape = [], dtype = !f32} : f32[]  loc(body.0)
  %w1 = const @body.0.a.weight#seed=1 : f32[16, 8]  loc(body.0.a)
  %v1 = const @body.0.b.weight#seed=2 : f32[8, 16]  loc(body.0.b)
  %h1 = linear %x, %w1 : f32[B, 16]  loc(body.0.a)
  %r1 = relu %h1 : f32[B, 16]  loc(body.0)
  %s1 = add %r1, %one : f32[B, 16]  loc(body.0)
  %y1 = linear %s1, %v1 : f32[B, 8]  loc(body.0.b)
  %a1 = add %x, %y1 : f32[B, 8]  loc(body.0)
  %w2 = const @body.1.a.weight#seed=3 : f32[16, 8]  loc(body.1.a)
  %v2 = const @body.1.b.weight#seed=4 : f32[8, 16]  loc(body.1.b)
  %k2 = mul %a1, %m : f32[B, 8]  loc(body.1)
  %h2 = linear %k2, %w2 : f32[B, 16]  loc(body.1.a)
  %r2 = relu %h2 : f32[B, 16]  loc(body.1)
  %y2 = linear %r2, %v2 : f32[B, 8]  loc(body.1.b)
  %a2 = add %a1, %y2 : f32[B, 8]  loc(body.1)
  %u = const @head.weight#seed=5 : f32[3, 8]  loc(head)
  %z = linear %a2, %u : f32[B, 3]  loc(head)
  return %z
}
"""


def blocks() -> Graph:
    return parse_graph(BLOCKS, generate=True)


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)]


def names(values: tuple[object, ...]) -> list[str]:
    return [v.name for v in values]  # type: ignore[attr-defined]


def test_a_module_path_names_a_region() -> None:
    region = region_at(blocks(), "body.1")
    assert names(region.nodes) == ["k2", "h2", "r2", "y2", "a2"]
    assert names(region.inputs) == ["a1", "m"]
    assert names(region.outputs) == ["a2"]
    assert region.entry is not None and region.entry.name == "a1"
    assert [c.attrs["name"] for c in region.constants] == ["body.1.a.weight", "body.1.b.weight"]
    assert region.problem() is None and not region.whole


def test_filled_tensors_go_with_the_region() -> None:
    assert names(region_at(blocks(), "body.0").inputs) == ["x"]


def test_the_empty_path_is_the_whole_model() -> None:
    region = region_at(blocks(), "")
    assert region.whole
    assert names(region.inputs) == ["x", "m"]
    assert names(region.outputs) == ["z"]


def test_an_unknown_path_is_an_error_with_suggestions() -> None:
    with pytest.raises(PassError, match=r"body\.2") as e:
        region_at(blocks(), "body.2")
    assert "did you mean" in str(e.value)


def test_what_lies_between_belongs_to_it() -> None:
    graph = blocks()
    ends = [graph.value(n).producer for n in ("h1", "y1")]
    region = region_of(graph, [n for n in ends if n is not None], "two")
    assert names(region.nodes) == ["h1", "r1", "s1", "y1"]


def test_residual_blocks_are_found() -> None:
    found = residual_regions(blocks())
    assert [(r.name, names(r.inputs), r.exit.name) for r in found] == [
        ("body.0", ["x"], "a1"), ("body.1", ["a1", "m"], "a2"),
    ]
    graph = blocks()
    assert [r.exit.name for r in residual_regions(graph, region_at(graph, "body.1"))] == ["a2"]


def test_the_norm_behind_a_sum_belongs_to_the_block() -> None:
    norm = "%z2 = layer_norm %a2, %n {axes_count = 1, eps = 1e-05} : f32[B, 8]  loc(PATH)\n  %u ="
    text = BLOCKS.replace("%u =", "%n = const @n#seed=9 : f32[8]\n  " + norm).replace("linear %a2", "linear %z2")
    graph = parse_graph(text.replace("PATH", "body.1.norm"), generate=True)
    assert [r.exit.name for r in residual_regions(graph)] == ["a1", "z2"]
    graph = parse_graph(text.replace("PATH", "norm"), generate=True)
    assert [r.exit.name for r in residual_regions(graph)] == ["a1", "a2"]


def test_a_block_whose_inside_is_used_elsewhere_is_none() -> None:
    graph = parse_graph(BLOCKS.replace("return %z", "return %z, %r2").replace("(f32[B, 3])", "(f32[B, 3], f32[B, 16])"),
                        generate=True)
    assert [r.exit.name for r in residual_regions(graph)] == ["a1"]
    assert names(region_at(graph, "body.1").outputs) == ["r2", "a2"]


def test_modules_below_a_path_are_found() -> None:
    assert [r.name for r in child_regions(blocks(), "body")] == ["body.0", "body.1"]
    assert [r.name for r in child_regions(blocks(), "")] == ["body", "head"]


def test_blocks_merge_into_a_run() -> None:
    graph = blocks()
    run = merged(residual_regions(graph))
    assert run.name == "body"
    assert names(run.inputs) == ["x", "m"] and names(run.outputs) == ["a2"]


def test_a_region_computes_the_same_by_itself() -> None:
    graph = blocks()
    region = region_at(graph, "body.1")
    body = body_of(region)
    verify(body)
    seen: dict[str, torch.Tensor] = {}
    run_graph(graph, inputs(), observe=lambda node, found: seen.update({node.name: found[0]}))
    (found,) = run_graph(body, [seen["a1"], inputs()[1]])
    assert torch.equal(found, seen["a2"])
    assert body.outputs[0].name == "a2"


def test_a_region_is_replaced() -> None:
    graph = blocks()
    region = region_at(graph, "body.0")
    body = parse_graph("""
    graph @b[B in 1..](%x: f32[B, 8]) -> (f32[B, 8]) {
      %two = mul %x, %x : f32[B, 8]  loc(distill[body.0])
      return %two
    }
    """, graph.store)
    with graph.edit("test") as editor:
        splice(editor, region, body)
    verify(graph)
    assert graph.value("a1").producer is not None and graph.value("a1").producer.op.name == "mul"
    names_left = {n.attrs["name"] for n in graph.nodes if n.op.name == "const"}
    assert names_left == {"body.1.a.weight", "body.1.b.weight", "head.weight"}
    assert not [n for n in graph.nodes if n.op.name == "full"]


def test_a_replacement_of_another_type_is_refused_and_undone() -> None:
    graph = blocks()
    text = str(graph)
    narrow = "graph @b[B in 1..](%x: f32[B, 8]) -> (f32[B]) {\n  %s = sum %x {axes = [1]} : f32[B]\n  return %s\n}"
    body = parse_graph(narrow, graph.store)
    with pytest.raises(IRError, match="takes the place"), graph.edit("test") as editor:
        splice(editor, region_at(graph, "body.0"), body)
    assert str(graph) == text
