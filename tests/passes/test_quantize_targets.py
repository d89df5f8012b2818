"""quantize: products whose operands a target would only decode again stay in float there."""

from __future__ import annotations

import pytest
import torch

from mcomp.backend import backend_named
from mcomp.passes.compress.products import OPERANDS
from mcomp.passes.compress.recurrent import RECURRENT
from tests.passes.test_quantize import ATTENTION, LSTM, MLP, quantized, rows

MATMUL = """
graph @product[B in 1..](%a: f32[B, 20, 8], %b: f32[B, 8, 16]) -> (f32[B, 20, 16]) {
  %y = matmul %a, %b : f32[B, 20, 16]  loc(scores)
  return %y
}
"""


def _normal(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(*shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("text", "pipeline", "shapes", "layer"), [
    (ATTENTION.replace("2, 5, 8", "2, 20, 8"), "quantize", [(2, 2, 20, 8)] * 3, "attn"),
    (ATTENTION.replace("2, 5, 8", "2, 20, 8"), "quantize{attention=true}", [(2, 2, 20, 8)] * 3, "attn"),
    (MATMUL, "quantize{attention=true}", [(2, 20, 8), (2, 8, 16)], "scores"),
    (LSTM, "quantize", [(3, 9, 24)], "l"),
])
def test_what_cuda_would_decode_stays_in_float(
    text: str, pipeline: str, shapes: list[tuple[int, ...]], layer: str
) -> None:
    inputs = _normal(*shapes)
    graph, context, error = quantized(text, pipeline, inputs, target="cuda:sm_90")
    assert error == 0 and not graph.ledger
    assert [(r.layer, bool(r.remedy)) for r in context.remarks if "multiplies floats on cuda:sm_90" in r.reason] == [
        (layer, True)]
    there, context, error = quantized(text, pipeline, inputs)
    assert error > 0 and len(there.ledger) == 1
    assert not [r for r in context.remarks if "multiplies floats" in r.reason]


def test_layers_with_weights_become_integers_there() -> None:
    graph, context, _ = quantized(MLP, "quantize", [rows()], target="cuda")
    assert [e.layer for e in graph.ledger] == ["fc1", "fc2"]
    assert not [r for r in context.remarks if "multiplies floats" in r.reason]


def test_what_is_not_asked_for_leaves_no_remark() -> None:
    text, inputs = ATTENTION.replace("2, 5, 8", "2, 20, 8"), _normal(*[(2, 2, 20, 8)] * 3)
    for pipeline in ("quantize{attention=false}", "quantize{activations=dynamic}"):
        _, context, _ = quantized(text, pipeline, inputs, target="cuda")
        assert not [r for r in context.remarks if "multiplies floats" in r.reason]


def test_what_targets_say() -> None:
    asked = (*OPERANDS, *RECURRENT)
    assert all(backend_named("cpu").multiplies_bytes(op) for op in asked)
    assert not any(backend_named("cuda").multiplies_bytes(op) for op in asked)
