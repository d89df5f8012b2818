"""quantize: meaning, choices per layer, refusals, text."""

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions, backend_named
from mcomp.errors import PassError
from mcomp.ir import Affine, Graph, dtypes, graph_text, parse_graph, verify
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration

MLP = """
graph @mlp[B in 1..](%x: f32[B, 64]) -> (f32[B, 16]) {
  %w = const @fc1.weight#seed=1 : f32[32, 64]  loc(fc1)
  %b = const @fc1.bias#seed=2 : f32[32]  loc(fc1)
  %h = linear %x, %w, %b : f32[B, 32]  loc(fc1)
  %r = relu %h : f32[B, 32]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[16, 32]  loc(fc2)
  %y = linear %r, %v : f32[B, 16]  loc(fc2)
  return %y
}
"""
CNN = """
graph @cnn[B in 1..](%x: f32[B, 3, 8, 8]) -> (f32[B, 8, 8, 8]) {
  %w = const @c1.weight#seed=1 : f32[8, 3, 3, 3]  loc(c1)
  %h = conv %x, %w {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1]} : f32[B, 8, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 8, 8, 8]  loc(act)
  %v = const @c2.weight#seed=2 : f32[8, 4, 3, 3]  loc(c2)
  %y = conv %r, %v {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1], groups = 2} : f32[B, 8, 8, 8]  loc(c2)
  return %y
}
"""
ATTENTION = """
graph @attend[B in 1..](%q: f32[B, 2, 5, 8], %k: f32[B, 2, 5, 8], %v: f32[B, 2, 5, 8]) -> (f32[B, 2, 5, 8]) {
  %y = attention %q, %k, %v {causal = true} : f32[B, 2, 5, 8]  loc(attn)
  return %y
}
"""


def quantized(text: str, pipeline: str, inputs: list[torch.Tensor], **options: object) -> tuple[Graph, Context, float]:
    """The graph of a text after the pipeline, its context, and the relative error of its outputs."""
    return quantized_graph(parse_graph(text, generate=True), pipeline, inputs, **options)


def quantized_graph(
    graph: Graph, pipeline: str, inputs: list[torch.Tensor], **options: object
) -> tuple[Graph, Context, float]:
    """The graph, changed by the pipeline, its context, and the relative error of its outputs."""
    context = Context(calibration=Calibration([inputs]), **options)  # type: ignore[arg-type]
    expected = run_graph(graph, inputs)
    PassManager(pipeline).run(graph, context)
    verify(graph)
    assert graph_text(parse_graph(graph_text(graph), graph.store)) == graph_text(graph)
    return graph, context, relative_error([run_graph(graph, inputs)], [expected])


def rows(count: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("pipeline", "limit"), [
    ("quantize", 0.03), ("quantize{activations=dynamic}", 0.03), ("quantize{activations=none}", 0.01),
    ("quantize{ranges=minmax}", 0.03), ("quantize{ranges=percentile,percentile=99.9}", 0.05), ("quantize{smooth=0.5}", 0.03),
    ("quantize{bits=4,group=32}", 0.2), ("quantize{correct=false}", 0.03),
])
def test_every_way_to_quantize_a_linear_keeps_its_meaning(pipeline: str, limit: float) -> None:
    graph, _, error = quantized(MLP, pipeline, [rows()])
    assert 0 < error < limit
    weights = [n for n in graph.nodes if n.op.name == "const" and len(n.type.shape) == 2]
    assert all(isinstance(n.type.encoding, Affine) for n in weights)
    assert [e.layer for e in graph.ledger] == ["fc1", "fc2"]
    assert all(e.bytes_saved > 0 and 0 < e.error < 0.25 for e in graph.ledger)


@pytest.mark.parametrize(("options", "limit", "reads"), [
    ("", 0.06, "scaled<f8e4m3, axis=0>"), ("activations=static,", 0.06, "scaled<f8e4m3, scale="),
    ("activations=none,", 0.04, "dense"),
])
def test_floats_of_8_bits(options: str, limit: float, reads: str) -> None:
    """Three bits of mantissa: numbers are off by about 2.6 %, the results of two layers by twice the root of two of that, or
    by the root of two where activations stay. CPUs have torch run them."""
    pipeline = f"quantize{{{options}format=fp8}}"
    graph, context, error = quantized(MLP, pipeline, [rows()], target="cuda")
    first, second = (n for n in graph.nodes if n.op.name == "linear")
    assert 0.005 < error < limit
    assert str(first.operand(1).tensor.encoding) == str(second.operand(1).tensor.encoding) == "scaled<f8e4m3, axis=0>"
    assert str(first.operand(0).tensor.encoding).startswith(reads)
    assert all(0.005 < e.error < 0.05 for e in graph.ledger)
    executable = backend_named("cpu").compile(graph, CompileOptions(), Context())
    assert relative_error([executable.run([rows()], {"B": 64})], [run_graph(graph, [rows()])]) < 1e-5
    assert "has no fp8" not in str(context.remarks)


def test_what_floats_of_8_bits_are_not_for() -> None:
    for pipeline, target, reason in (
        ("quantize{format=fp8}", "cpu", "no kernels on cpu"), ("quantize{format=fp8,bits=4}", "cuda", "no bits=4"),
        ("quantize{format=fp8,group=32}", "cuda", "no group=32"),
        ("quantize{format=fp8,smooth=0.5}", "cuda", "no smooth=0.5"),
    ):
        with pytest.raises(PassError, match=reason):
            quantized(MLP, pipeline, [rows()], target=target)
    graph, context, error = quantized(CNN, "quantize{format=fp8}", [torch.randn(2, 3, 8, 8)], target="cuda")
    assert error == 0 and not graph.ledger
    assert [r.layer for r in context.remarks if "has no fp8 kernel" in r.reason] == ["c1", "c2"]


def test_convolutions_become_integer_too() -> None:
    x = torch.randn(8, 3, 8, 8)
    graph, _, error = quantized(CNN, "quantize", [x])
    assert error < 0.03
    kinds = {n.op.name: n for n in graph.nodes}
    activation = kinds["quantize"].type.encoding
    assert isinstance(activation, Affine) and activation.scale is not None and activation.dtype.name == "u8"


def test_names_of_values_stay() -> None:
    graph, _, _ = quantized(MLP, "quantize", [rows()])
    for name in ("w", "b", "h", "r", "v", "y"):
        assert graph.value(name).producer is not None


def test_smoothing_helps_where_one_channel_is_large() -> None:
    x = rows()
    x[:, 3] *= 100
    _, _, plain = quantized(MLP, "quantize{smooth=0}", [x])
    _, _, smooth = quantized(MLP, "quantize{smooth=0.5}", [x])
    _, _, chosen = quantized(MLP, "quantize", [x])
    assert smooth < plain / 2
    assert chosen < plain / 2


def test_masked_scores_do_not_widen_the_range() -> None:
    x = rows()
    x[0, 0] = torch.finfo(torch.float32).min
    graph, _, _ = quantized(MLP, "quantize{smooth=0,max_error=1e30}", [x])
    scales = [n.attrs["scale"] for n in graph.nodes if n.op.name == "quantize"]
    assert scales and max(scales) < 1.0


@pytest.mark.parametrize(("queries", "pipeline", "count"), [
    (5, "quantize", 0), (5, "quantize{attention=true}", 3), (20, "quantize", 3), (20, "quantize{attention=false}", 0),
    (20, "quantize{activations=dynamic}", 0), (20, "quantize{attention=true,max_error=0.001}", 0),
])
def test_attention_operands_become_integers_where_that_pays(queries: int, pipeline: str, count: int) -> None:
    inputs = [torch.randn(2, 2, queries, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    graph, context, error = quantized(ATTENTION.replace("2, 5, 8", f"2, {queries}, 8"), pipeline, inputs)
    assert sum(n.op.name == "quantize" for n in graph.nodes) == count
    if count:
        assert 0 < error < 0.03 and 0.5 * error < graph.ledger[0].error < 2 * error
    elif "max_error" in pipeline:
        assert any("more than 0.1%" in r.reason for r in context.remarks)


def test_attention_that_rounding_harms_stays_in_float_by_itself() -> None:
    """One key far ahead, and many whose weights together count, each less than half of a 255th of it."""
    query = torch.ones(1, 1, 16, 8)
    key = torch.zeros(1, 1, 2048, 8)
    key[..., 0, :] = 2.25
    value = torch.cat([torch.full((1, 1, 1, 8), -1.0), torch.ones(1, 1, 2047, 8)], -2)
    text = """
    graph @attend(%q: f32[1, 1, 16, 8], %k: f32[1, 1, 2048, 8], %v: f32[1, 1, 2048, 8]) -> (f32[1, 1, 16, 8]) {
      %y = attention %q, %k, %v : f32[1, 1, 16, 8]  loc(attn)
      return %y
    }"""
    graph, context, error = quantized(text, "quantize", [query, key, value])
    assert error == 0 and not graph.ledger
    assert [r.layer for r in context.remarks if "more than 15.0%" in r.reason] == ["attn"]


def test_layers_that_would_change_too_much_stay_in_float() -> None:
    graph, context, error = quantized(MLP, "quantize{max_error=0.0001}", [rows()])
    assert error == 0 and not graph.ledger
    assert [r.layer for r in context.remarks if "more than" in r.reason] == ["fc1", "fc2"]


def test_excluded_layers_and_options_per_layer() -> None:
    graph, context, _ = quantized(MLP, "quantize", [rows()], exclude=["fc1"])
    assert [e.layer for e in graph.ledger] == ["fc2"]
    assert any('excluded by "fc1"' in r.reason for r in context.remarks)
    graph, _, _ = quantized(MLP, "quantize", [rows()], layers={"fc2": {"quantize": False}, "fc1": {"activations": "none"}})
    assert [e.layer for e in graph.ledger] == ["fc1"]
    assert "float activations" in graph.ledger[0].detail


def test_reasons_for_layers_that_cannot_be_quantized() -> None:
    text = """
    graph @g[B in 1..](%x: f32[B, 4], %w: f32[3, 4]) -> (f32[B, 3]) {
      %y = linear %x, %w : f32[B, 3]  loc(given)
      return %y
    }"""
    _, context, _ = quantized(text, "quantize", [torch.randn(2, 4), torch.randn(3, 4)])
    assert [(r.layer, r.reason) for r in context.remarks] == [("given", "its weight is computed, not constant")]


def test_an_infeasible_group_names_the_layer_and_what_fits() -> None:
    with pytest.raises(PassError) as caught:
        quantized(MLP, "quantize{bits=4,group=48}", [rows()])
    text = str(caught.value)
    for part in ("MC0203", "48 does not divide 64", "fc1.weight", "use group=64", 'exclude "fc1"', "const @fc1.weight#"):
        assert part in text


def test_a_percentile_of_50_is_refused_and_told_so() -> None:
    with pytest.raises(PassError, match=r"percentile is 50.0\n.*use more than 50, at most 100"):
        quantized(MLP, "quantize{percentile=50}", [rows()])


@pytest.mark.parametrize("pipeline", ["quantize{bits=5}", "quantize{group=0}", "quantize{percentile=20.0}"])
def test_options_out_of_range(pipeline: str) -> None:
    with pytest.raises(PassError):
        quantized(MLP, pipeline, [rows()])


@pytest.mark.parametrize("options", ["correct=false", "smooth=0.5", "smooth=0.5,rounding=feedback", "bits=4"])
def test_the_sum_of_bytes_saved_is_what_the_weights_lost(options: str) -> None:
    before = parse_graph(MLP, generate=True)
    graph, _, _ = quantized(MLP, f"quantize{{{options}}}", [rows()])

    def size(g: Graph) -> int:
        return sum({w.digest: w.nbytes for n in g.nodes if (w := n.result.weight) is not None}.values())

    assert size(before) - size(graph) == sum(e.bytes_saved for e in graph.ledger)


def test_equal_activations_are_quantized_once() -> None:
    text = MLP.replace("return %y", """%u = const @fc3.weight#seed=9 : f32[16, 64]  loc(fc3)
  %z = linear %x, %u : f32[B, 16]  loc(fc3)
  %s = add %y, %z : f32[B, 16]
  return %s""")
    graph, _, _ = quantized(text, "quantize,cse,dce", [rows()])
    assert sum(n.op.name == "quantize" and n.operand(0).name == "x" for n in graph.nodes) == 1


def test_zeros_stay_zero() -> None:
    graph = parse_graph(MLP, generate=True)
    dense = np.array(graph.value("w").weight.decode())  # type: ignore[union-attr]
    dense[::2] = 0
    with graph.edit("prune") as e:
        new = e.const(dense, name="fc1.weight", before=graph.value("h").producer)
        e.replace(graph.value("w"), new)
    PassManager("quantize").run(graph, Context(calibration=Calibration([[rows()]])))
    weight = graph.value("h").producer.operand(1).weight  # type: ignore[union-attr]
    assert weight is not None and not weight.decode()[::2].any()


LSTM = """
graph @recurrent[B in 1.., T in 1..](%x: f32[B, T, 24]) -> (f32[B, T, 32]) {
  %h = full {shape = [2, B, 16], value = 0.0, dtype = !f32} : f32[2, B, 16]
  %wi = const @l.wi#seed=1 : f32[64, 24]  loc(l)
  %wh = const @l.wh#seed=2 : f32[64, 16]  loc(l)
  %vi = const @l.vi#seed=3 : f32[64, 24]  loc(l)
  %vh = const @l.vh#seed=4 : f32[64, 16]  loc(l)
  %y, %hn, %cn = lstm %x, %h, %h, %wi, %wh, %vi, %vh {layers = 1, bidirectional = true, batch_first = true, bias = false}
      : f32[B, T, 32], f32[2, B, 16], f32[2, B, 16]  loc(l)
  return %y
}
"""


@pytest.mark.parametrize(("pipeline", "dynamic", "limit"), [
    ("quantize", True, 0.03), ("quantize{activations=dynamic}", True, 0.03), ("quantize{activations=none}", False, 0.02),
])
def test_recurrent_weights_become_int8(pipeline: str, dynamic: bool, limit: float) -> None:
    x = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(0))
    graph, _, error = quantized(LSTM, pipeline, [x])
    assert 0 < error < limit
    (node,) = [n for n in graph.nodes if n.op.name == "lstm"]
    assert node.attrs["dynamic"] is dynamic
    weights = [n for n in graph.nodes if n.op.name == "const"]
    assert len(weights) == 4 and all(n.type.encoding == Affine(dtypes.i8, axis=(0,)) for n in weights)
    (entry,) = graph.ledger
    assert entry.layer == "l" and 0 < entry.error < limit and entry.bytes_saved > 0


def test_recurrent_layers_stay_when_excluded_too_inexact_or_of_four_bits() -> None:
    x = torch.randn(2, 5, 24)
    for pipeline, options in (
        ("quantize{max_error=0.0001}", {}), ("quantize{bits=4}", {}), ("quantize", {"exclude": ("l",)}),
    ):
        graph, context, error = quantized(LSTM, pipeline, [x], **options)
        assert error == 0 and not graph.ledger
        assert any(r.rule == "quantize" and r.kind in ("missed", "note") for r in context.remarks)


POOLED = """graph @g [B in 1..] (%x: f32[B, 4, 8, 8]) -> (f32[B, 6, 4, 4], f32[B, 4, 4, 4]) {
  %w = const @c1.weight#seed=1 : f32[4, 4, 3, 3]
  %v = const @c2.weight#seed=2 : f32[6, 4, 1, 1]
  %h = conv %x, %w {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 4, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 4, 8, 8]
  %p = max_pool %r {kernel=[2,2], stride=[2,2], padding=[[0,0],[0,0]], dilation=[1,1]} : f32[B, 4, 4, 4]  loc(pool)
  %y = conv %p, %v {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 6, 4, 4]  loc(c2)
  return %y, %p
}"""


def test_what_is_pooled_is_quantized_before_it() -> None:
    inputs = [torch.randn(16, 4, 8, 8)]
    graph, _, error = quantized(POOLED, "quantize{bits=8}", inputs)
    pool = next(n for n in graph.nodes if n.op.name == "max_pool")
    assert pool.operand(0).producer is not None and pool.operand(0).producer.op.name == "decode"
    after = next(u for u in pool.result.users if u.op.name == "quantize")
    before = pool.operand(0).producer.operand(0).producer
    assert before is not None and before.type.encoding == after.type.encoding
    assert error < 0.02


RESIDUAL = """graph @g [B in 1..] (%x: f32[B, 4, 8, 8]) -> (f32[B, 8, 4, 4], f32[B, 4, 8, 8]) {
  %w = const @c1.weight#seed=1 : f32[4, 4, 3, 3]
  %v = const @c2.weight#seed=2 : f32[4, 4, 3, 3]
  %u = const @c3.weight#seed=3 : f32[8, 4, 3, 3]
  %h = conv %x, %w {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 4, 8, 8]  loc(c1)
  %r = relu %h : f32[B, 4, 8, 8]
  %c = conv %r, %v {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 4, 8, 8]  loc(c2)
  %s = add %c, %r : f32[B, 4, 8, 8]  loc(sum)
  %t = relu %s : f32[B, 4, 8, 8]
  %d = conv %t, %u {stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 8, 4, 4]  loc(c3)
  %e = slice %t {axis=2, start=0, stop=8, step=2} : f32[B, 4, 4, 8]
  %f = slice %e {axis=3, start=0, stop=8, step=2} : f32[B, 4, 4, 4]
  %g = pad %f {low=[0, 2, 0, 0], high=[0, 2, 0, 0]} : f32[B, 8, 4, 4]
  %y = add %d, %g : f32[B, 8, 4, 4]  loc(end)
  return %y, OTHER
}"""


def _residuals(graph: Graph) -> int:
    return sum(node.op.name == "decode" for node in graph.nodes)


def test_sums_read_what_is_quantized_for_products() -> None:
    inputs = [torch.randn(16, 4, 8, 8)]
    graph, _, error = quantized(RESIDUAL.replace("OTHER", "%h"), "quantize", inputs)
    assert _residuals(graph) == 2 and error < 0.03
    added = next(n for n in graph.nodes if n.op.name == "add")
    assert [v.producer.op.name for v in added.operands if v is not None and v.producer is not None] == ["conv", "decode"]


def test_residuals_stay_floats_where_others_read_them_or_rounding_shows() -> None:
    inputs = [torch.randn(16, 4, 8, 8)]
    graph, _, _ = quantized(RESIDUAL.replace("OTHER", "%t"), "quantize", inputs)
    assert _residuals(graph) == 1
    graph, context, _ = quantized(RESIDUAL.replace("OTHER", "%h"), "quantize{residual=0.0001}", inputs)
    assert _residuals(graph) == 0 and any("residual" in r.reason for r in context.remarks if r.kind == "missed")
    graph, _, _ = quantized(RESIDUAL.replace("OTHER", "%h"), "quantize", inputs, exclude=("sum",))
    assert _residuals(graph) == 1


BLOCK = """
graph @block[B in 1..](%x: f32[B, 20, 32]) -> (f32[B, 20, 32]) {
  %w = const @value.weight#seed=1 : f32[32, 32]  loc(value)
  %l = linear %x, %w : f32[B, 20, 32]  loc(value)
  %v = reshape %l {shape = [B, 20, 4, 8]} : f32[B, 20, 4, 8]  loc(attn)
  %p = permute %v {order = [0, 2, 1, 3]} : f32[B, 4, 20, 8]  loc(attn)
  %u = reshape %x {shape = [B, 20, 4, 8]} : f32[B, 20, 4, 8]  loc(attn)
  %k = permute %u {order = [0, 2, 1, 3]} : f32[B, 4, 20, 8]  loc(attn)
  %a = attention %k, %k, %p : f32[B, 4, 20, 8]  loc(attn)
  %t = permute %a {order = [0, 2, 1, 3]} : f32[B, 20, 4, 8]  loc(attn)
  %r = reshape %t {shape = [B, 20, 32]} : f32[B, 20, 32]  loc(attn)
  %o = const @out.weight#seed=2 : f32[32, 32]  loc(out)
  %y = linear %r, %o : f32[B, 20, 32]  loc(out)
  return %y
}
"""


@pytest.mark.parametrize("smooth", ["0", "0.5"])
def test_bytes_are_made_where_values_are_made(smooth: str) -> None:
    """Not behind views of them; smoothing factors move along. What a graph is given stays where it is."""
    x = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(3))
    graph, _, error = quantized(BLOCK, f"quantize{{smooth={smooth}}},dce", [x])
    assert error < 0.05
    value, attention = (next(n for n in graph.nodes if n.op.name == name) for name in ("linear", "attention"))
    assert [u.op.name for u in value.result.users] == ["quantize"]
    assert [u.op.name for u in attention.result.users] == ["quantize" if smooth == "0" else "mul"]
    assert [u.op.name for u in attention.operand(0).producer.operand(0).users] == ["quantize", "quantize"]
    factors = [n.operand(1).tensor.shape for n in graph.nodes if n.op.name == "mul"]
    assert factors == ([] if smooth == "0" else [(32,), (1, 4, 1, 8)])
    assert sum(n.op.name == "decode" for n in graph.nodes) == 2
