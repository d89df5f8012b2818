"""quantize: what is rounded beside layers (residuals, pooled values, operands of products) is limited and told."""

from __future__ import annotations

import torch

from tests.passes.test_quantize import ATTENTION, POOLED, RESIDUAL, quantized


def images() -> list[torch.Tensor]:
    return [torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))]


def test_residuals_that_are_rounded_are_in_the_ledger() -> None:
    graph, context, _ = quantized(RESIDUAL.replace("OTHER", "%h"), "quantize", images())
    entries = [e for e in graph.ledger if "what is added" in e.detail]
    assert [e.layer for e in entries] == ["sum", "e"] and all(0 < e.error < 0.02 for e in entries)
    assert [r.layer for r in context.remarks if r.kind == "applied" and "what is added" in r.reason] == ["sum", "e"]


def test_pooled_values_that_others_read_are_rounded_within_a_limit() -> None:
    graph, _, error = quantized(POOLED, "quantize", images())
    (entry,) = [e for e in graph.ledger if e.layer == "pool"]
    assert 0 < entry.error < 0.02 and error < 0.02
    graph, context, _ = quantized(POOLED, "quantize{residual=0.0}", images())
    pool = next(n for n in graph.nodes if n.op.name == "max_pool")
    assert pool.operand(0).producer is not None and pool.operand(0).producer.op.name == "relu"
    assert [r.layer for r in context.remarks if "for others" in r.reason and r.remedy] == ["pool"]
    alone = POOLED.replace("return %y, %p", "return %y").replace("f32[B, 6, 4, 4], f32[B, 4, 4, 4])", "f32[B, 6, 4, 4])")
    graph, _, _ = quantized(alone, "quantize{residual=0.0}", images())
    assert next(n for n in graph.nodes if n.op.name == "max_pool").operand(0).producer.op.name == "decode"  # type: ignore
    assert [e.layer for e in graph.ledger] == ["c1", "c2"]


def test_products_with_integer_operands_are_told() -> None:
    inputs = [torch.randn(2, 2, 20, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    _, context, _ = quantized(ATTENTION.replace("2, 5, 8", "2, 20, 8"), "quantize", inputs)
    assert [(r.kind, r.layer, r.reason) for r in context.remarks] == [("applied", "attn", "operands i8 static")]
