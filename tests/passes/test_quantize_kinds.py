"""quantize: element types other than f32, inputs without values, and what its errors count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcomp.ir import dtypes, parse_graph
from mcomp.manager import Context
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.candidates import layer_candidates
from mcomp.passes.compress.samples import Sample, activation_range
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration
from tests.compress.networks import cleaned
from tests.passes.test_quantize import ATTENTION, BLOCK, CNN, MLP, quantized, quantized_graph, rows

TYPES = {"f16": torch.float16, "f64": torch.float64}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("text", [MLP, BLOCK], ids=["mlp", "block"])
def test_smoothing_factors_have_the_element_type_of_what_they_multiply(text: str, dtype: str) -> None:
    x = rows() if text is MLP else torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(3))
    graph, _, error = quantized(text.replace("f32", dtype), "quantize{smooth=0.5},dce", [x.to(TYPES[dtype])])
    factors = [n.operand(1).tensor.dtype.name for n in graph.nodes if n.op.name == "mul"]
    assert factors == [dtype, dtype] and 0 < error < 0.05


def test_smoothing_of_bf16() -> None:
    torch.manual_seed(0)
    x = rows().bfloat16()
    x[:, 3] *= 100
    layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)).bfloat16()
    source = cleaned(layers, (x,))
    graph, _, error = quantized_graph(source, "quantize{smooth=0.5}", [x])
    factors = [n.operand(1) for n in graph.nodes if n.op.name == "mul"]
    assert len(factors) == 2 and all(v.is_const and v.tensor.dtype is dtypes.bf16 for v in factors)
    assert 0 < error < 0.05


@pytest.mark.parametrize(("text", "shape", "layer", "expected"), [
    (MLP, (64, 64), "fc1", "activations i8 dynamic"), (CNN, (4, 3, 8, 8), "c1", "float activations"),
])
def test_inputs_that_were_always_zero_have_no_static_range(
    text: str, shape: tuple[int, ...], layer: str, expected: str
) -> None:
    """A range of nothing would turn every later input into the largest integer of it."""
    zeros, used = torch.zeros(shape), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exact = run_graph(parse_graph(text, generate=True), [used])
    graph, context, _ = quantized(text, "quantize{activations=static}", [zeros], exclude=["fc2"])
    assert relative_error([run_graph(graph, [used])], [exact]) < 0.1
    assert expected in graph.ledger[0].detail
    missed = [r for r in context.remarks if r.kind == "missed" and r.layer == layer]
    assert [(r.reason, r.remedy) for r in missed] == [
        ("its input was zero in all calibration data", "give data that uses it, or activations=dynamic")
    ]


def test_products_with_an_operand_that_was_always_zero_stay() -> None:
    inputs = [torch.randn(2, 2, 20, 8), torch.zeros(2, 2, 20, 8), torch.randn(2, 2, 20, 8)]
    graph, context, _ = quantized(ATTENTION.replace("2, 5, 8", "2, 20, 8"), "quantize", inputs)
    assert not graph.ledger
    assert [r.reason for r in context.remarks if r.kind == "missed"] == ["an operand was zero in all calibration data"]


def test_a_percentile_of_zeros_is_no_range() -> None:
    sample = Sample(-1)
    rare = torch.zeros(1000, 64)
    rare[17, 5] = 3.0
    sample.add(rare, 1)
    assert activation_range(sample, "percentile", 99.0, 256) == (0.0, 3.0)


def uneven() -> torch.Tensor:
    """Inputs with a mean, so that rounding weights shifts outputs."""
    return 0.2 * rows() + 2.0


@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
def test_errors_count_the_bias_that_is_stored(dtype: str) -> None:
    """Two bits for the weights of one layer: their mean error is a large part, and the bias takes it up in each type."""
    one = MLP[: MLP.index("  %r = relu")].replace("f32[B, 16]", "f32[B, 32]") + "  return %h\n}"
    x = uneven().to({"f32": torch.float32, **TYPES}[dtype])
    graph, _, error = quantized(one.replace("f32", dtype), "quantize{bits=2,rounding=nearest,max_error=9.0}", [x])
    _, _, plain = quantized(one.replace("f32", dtype), "quantize{bits=2,rounding=nearest,correct=false,max_error=9.0}", [x])
    assert error < 0.5 * plain
    assert graph.ledger[0].error == pytest.approx(error, rel=0.15)


def test_a_computed_bias_takes_no_mean_error() -> None:
    text = """
    graph @g[B in 1..](%x: f32[B, 64], %b: f32[32]) -> (f32[B, 32]) {
      %w = const @fc1.weight#seed=1 : f32[32, 64]  loc(fc1)
      %h = linear %x, %w, %b : f32[B, 32]  loc(fc1)
      return %h
    }"""
    inputs = [uneven(), torch.zeros(32)]
    graph, _, error = quantized(text, "quantize{bits=2,rounding=nearest,max_error=9.0}", inputs)
    assert graph.ledger[0].error == pytest.approx(error, rel=0.15)


def test_rows_of_zeros_do_not_keep_a_layer_in_float() -> None:
    """Padding gives rows of zeros, which the corrected bias moves a little."""
    text = MLP.replace("linear %x, %w, %b", "linear %x, %w")
    x = rows()
    x[::8] = 0
    graph, context, error = quantized(text, "quantize", [x])
    assert [e.layer for e in graph.ledger] == ["fc1", "fc2"], [str(r) for r in context.remarks]
    assert error < 0.03 and all(0 < e.error < 0.1 for e in graph.ledger)


def test_a_value_that_a_convolution_and_a_linear_read() -> None:
    """Channels of the one are rows of the other: what is sampled for one is of no use to the other."""
    text = """
    graph @g[B in 1..](%x: f32[B, 8, 16]) -> (f32[B, 6, 16], f32[B, 8, 12]) {
      %w = const @c.weight#seed=1 : f32[6, 8, 3]  loc(c)
      %y = conv %x, %w {stride = [1], padding = [[1, 1]], dilation = [1]} : f32[B, 6, 16]  loc(c)
      %v = const @l.weight#seed=2 : f32[12, 16]  loc(l)
      %z = linear %x, %v : f32[B, 8, 12]  loc(l)
      return %y, %z
    }"""
    graph, _, error = quantized(text, "quantize{smooth=0.5}", [torch.randn(4, 8, 16)])
    assert sorted(e.layer for e in graph.ledger) == ["c", "l"] and error < 0.03


def test_candidates_of_a_convolution_and_a_linear_that_read_one_value() -> None:
    text = """
    graph @g[B in 1..](%x: f32[B, 8, 16]) -> (f32[B, 8, 12], f32[B, 6, 16]) {
      %v = const @l.weight#seed=2 : f32[12, 16]  loc(l)
      %z = linear %x, %v : f32[B, 8, 12]  loc(l)
      %w = const @c.weight#seed=1 : f32[6, 8, 3]  loc(c)
      %y = conv %x, %w {stride = [1], padding = [[1, 1]], dilation = [1]} : f32[B, 6, 16]  loc(c)
      return %z, %y
    }"""
    graph = parse_graph(text, generate=True)
    context = Context(calibration=Calibration([[torch.randn(4, 8, 16)]]))
    found = layer_candidates(graph, context)
    assert set(found) == {"z", "y"}, [str(r) for r in context.remarks]
