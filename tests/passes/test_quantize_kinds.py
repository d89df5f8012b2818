"""quantize: element types other than f32, inputs without values, and what its errors count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcomp.ir import dtypes
from tests.compress.networks import cleaned
from tests.passes.test_quantize import BLOCK, MLP, quantized, quantized_graph, rows

TYPES = {"f16": torch.float16, "f64": torch.float64}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("text", [MLP, BLOCK], ids=["mlp", "block"])
def test_smoothing_factors_have_the_element_type_of_what_they_multiply(text: str, dtype: str) -> None:
    x = rows() if text is MLP else torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(3))
    graph, _, error = quantized(text.replace("f32", dtype), "quantize{smooth=0.5},dce", [x.to(TYPES[dtype])])
    factors = [n.operand(1).tensor.dtype.name for n in graph.nodes if n.op.name == "mul"]
    assert factors == [dtype, dtype] and 0 < error < 0.05


def test_smoothing_of_bf16() -> None:
    x = rows().bfloat16()
    x[:, 3] *= 100
    layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)).bfloat16()
    source = cleaned(layers, (x,))
    graph, _, error = quantized_graph(source, "quantize{smooth=0.5}", [x])
    factors = [n.operand(1) for n in graph.nodes if n.op.name == "mul"]
    assert len(factors) == 2 and all(v.is_const and v.tensor.dtype is dtypes.bf16 for v in factors)
    assert 0 < error < 0.05
