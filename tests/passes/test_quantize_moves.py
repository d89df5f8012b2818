"""quantize: averages, cat and split read bytes where kernels that can write bytes make them."""

from __future__ import annotations

import pytest
import torch

from mcomp.ir import Graph
from mcomp.ir.graph import Node
from tests.passes.test_quantize import quantized

_CONV = "{stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1}"

POOLED = f"""graph @g [B in 1..] (%x: f32[B, 4, 8, 8]) -> (f32[B, 6]OTHER) {{
  %w = const @c1.weight#seed=1 : f32[16, 4, 3, 3]
  %v = const @fc.weight#seed=2 : f32[6, 16]
  %h = conv %x, %w {_CONV} : f32[B, 16, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 16, 8, 8]
  %m = mean %r {{axes=[2, 3], keepdim=true}} : f32[B, 16, 1, 1]  loc(pool)
  %f = reshape %m {{shape=[B, 16]}} : f32[B, 16]
  %y = linear %f, %v : f32[B, 6]  loc(fc)
  return %yMORE
}}"""

BRANCHES = f"""graph @g [B in 1..] (%x: f32[B, 4, 8, 8]) -> (f32[B, 8, 8, 8], f32[B, 6, 8, 8]) {{
  %w = const @c1.weight#seed=1 : f32[16, 4, 3, 3]
  %v = const @c2.weight#seed=2 : f32[8, 16, 3, 3]
  %u = const @c3.weight#seed=3 : f32[6, 16, 3, 3]
  %h = conv %x, %w {_CONV} : f32[B, 16, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 16, 8, 8]
  %p = avg_pool %r {{kernel=[3,3], stride=[1,1], padding=[[1,1],[1,1]]}} : f32[B, 16, 8, 8]  loc(pool)
  %y = conv %r, %v {_CONV} : f32[B, 8, 8, 8]  loc(c2)
  %z = conv %p, %u {_CONV} : f32[B, 6, 8, 8]  loc(c3)
  return %y, %z
}}"""

JOINED = f"""graph @g [B in 1..] (%x: f32[B, 4, 8, 8]) -> (f32[B, 6, 8, 8]OTHER) {{
  %w = const @c1.weight#seed=1 : f32[8, 4, 3, 3]
  %v = const @c2.weight#seed=2 : f32[5, 4, 3, 3]
  %u = const @c3.weight#seed=3 : f32[6, 13, 3, 3]
  %h = conv %x, %w {_CONV} : f32[B, 8, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 8, 8, 8]
  %g = conv %x, %v {_CONV} : f32[B, 5, 8, 8]  loc(c2)
  %c = cat %r, %g {{axis=1}} : f32[B, 13, 8, 8]  loc(join)
  %y = conv %c, %u {_CONV} : f32[B, 6, 8, 8]  loc(c3)
  return %yMORE
}}"""

SPLIT = """graph @g [B in 1..] (%x: f32[B, 8]) -> (f32[B, 6], f32[B, 5]) {
  %w = const @a.weight#seed=1 : f32[32, 8]
  %v = const @b.weight#seed=2 : f32[6, 16]
  %u = const @c.weight#seed=3 : f32[5, 16]
  %h = linear %x, %w : f32[B, 32]  loc(a)
  %s, %t = split %h {axis=1, sizes=[16, 16]} : f32[B, 16], f32[B, 16]  loc(halves)
  %y = linear %s, %v : f32[B, 6]  loc(b)
  %z = linear %t, %u : f32[B, 5]  loc(c)
  return %y, %z
}"""


def images() -> list[torch.Tensor]:
    return [torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))]


def plain(text: str) -> str:
    return text.replace("OTHER", "").replace("MORE", "")


def only(graph: Graph, name: str) -> Node:
    (node,) = [n for n in graph.nodes if n.op.name == name]
    return node


def makers(node: Node) -> list[str]:
    return [v.producer.op.name for v in node.operands if v is not None and v.producer is not None]


def test_averages_read_bytes_with_a_scale_of_their_own() -> None:
    graph, context, error = quantized(plain(POOLED), "quantize,cse,dce", images())
    mean = only(graph, "mean")
    assert makers(mean) == ["decode"] and error < 0.02
    assert [u.op.name for u in mean.result.users] == ["quantize"], "the bytes come before the reshape"
    (entry,) = [e for e in graph.ledger if e.layer == "pool"]
    assert 0 < entry.error < 0.02 and entry.detail == "averages u8"
    assert [r.layer for r in context.remarks if r.kind == "applied" and r.reason == "averages u8"] == ["pool"]


def test_averages_read_bytes_that_a_product_reads() -> None:
    graph, _, error = quantized(BRANCHES, "quantize,cse,dce", images())
    pool = only(graph, "avg_pool")
    assert makers(pool) == ["decode"] and error < 0.03
    first = only(graph, "relu").result
    assert [u.op.name for u in first.users] == ["quantize"], "nobody reads the floats"


@pytest.mark.parametrize(("pipeline", "options"), [
    ("quantize{residual=0.0}", {}), ("quantize", {"exclude": ("pool",)}), ("quantize", {"target": "cuda"}),
])
def test_averages_stay_floats(pipeline: str, options: dict[str, object]) -> None:
    graph, _, _ = quantized(plain(POOLED), pipeline, images(), **options)
    assert makers(only(graph, "mean")) == ["relu"]


def test_averages_of_what_others_read_as_floats_or_what_is_given_stay_floats() -> None:
    read = POOLED.replace("OTHER", ", f32[B, 16, 8, 8]").replace("MORE", ", %r")
    graph, _, _ = quantized(read, "quantize", images())
    assert makers(only(graph, "mean")) == ["relu"]
    given = plain(POOLED).replace("mean %r", "mean %x").replace("[B, 16, 1, 1]", "[B, 4, 1, 1]").replace("[B, 16]", "[B, 4]")
    graph, _, _ = quantized(given.replace("f32[6, 16]", "f32[6, 4]"), "quantize", images())
    assert only(graph, "mean").operand(0).producer is None


def test_what_is_joined_is_quantized_before() -> None:
    graph, _, error = quantized(plain(JOINED), "quantize,cse,dce", images())
    cat = only(graph, "cat")
    assert makers(cat) == ["decode", "decode"] and error < 0.03
    encodings = {v.producer.operand(0).tensor.encoding for v in cat.operands if v is not None and v.producer is not None}
    assert encodings == {u.results[0].tensor.encoding for u in cat.result.users}, "one scale for all operands"
    assert not [e for e in graph.ledger if e.layer == "join"], "the product reads what it read"


def test_joined_values_that_others_read_are_rounded_within_a_limit() -> None:
    text = JOINED.replace("OTHER", ", f32[B, 13, 8, 8]").replace("MORE", ", %c")
    graph, _, _ = quantized(text, "quantize", images())
    (entry,) = [e for e in graph.ledger if e.layer == "join"]
    assert 0 < entry.error < 0.02 and makers(only(graph, "cat")) == ["decode", "decode"]
    graph, context, _ = quantized(text, "quantize{residual=0.0}", images())
    assert makers(only(graph, "cat")) == ["relu", "conv"]
    assert [r.layer for r in context.remarks if "for others" in r.reason and r.remedy] == ["join"]


def test_joins_stay_floats_where_an_operand_is_constant_or_kernels_move_no_bytes() -> None:
    fixed = plain(JOINED).replace("cat %r, %g", "cat %r, %k").replace(
        "  %c = cat", "  %k = full {value=1.0, shape=[B, 5, 8, 8], dtype=!f32} : f32[B, 5, 8, 8]\n  %c = cat")
    for text, options in ((fixed, {}), (plain(JOINED), {"target": "cuda"}), (plain(JOINED), {"exclude": ("join",)})):
        graph, _, _ = quantized(text, "quantize", images(), **options)
        assert "decode" not in makers(only(graph, "cat"))


def test_splits_are_quantized_before_where_all_parts_have_one_scale() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    graph, _, _ = quantized(SPLIT, "quantize", [x])
    assert makers(only(graph, "split")) == ["linear"], "each half has a scale of its own"
    alike = SPLIT.replace("%y = linear %s", "%y = linear %p").replace("%z = linear %t", "%z = linear %r")
    code = "affine<u8, scale=0.25, zero=128>"
    given = "{dtype=!u8, scale=0.25, zero=128}"
    alike = alike.replace("  %y =", f"""  %i = quantize %s {given} : f32[B, 16] {code}
  %j = quantize %t {given} : f32[B, 16] {code}
  %p = decode %i : f32[B, 16]
  %r = decode %j : f32[B, 16]
  %y =""")
    graph, _, _ = quantized(alike, "quantize{activations=none}", [x])
    assert makers(only(graph, "split")) == ["decode"]
