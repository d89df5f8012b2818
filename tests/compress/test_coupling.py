"""coupling: what goes together, what cannot go, and why; and that cutting it equals masking it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcomp.errors import PassError
from mcomp.ir import NM, Affine, BlockSparse, Bounds, Graph, TensorType, Value, dtypes, parse_graph, sym
from mcomp.ir.encoding import quantize_array
from mcomp.manager import Context
from mcomp.ops.base import Op, all_ops
from mcomp.passes.analysis import Operations
from mcomp.passes.analysis.ties import AxisRule, Ties, axis_rule_of
from mcomp.passes.compress.narrow import cut, narrowed
from tests.compress.masking import check_narrow, coupling_of, weights_of
from tests.compress.networks import NETWORKS, network, transformer
from tests.strategies import graphs, inputs_for

MLP = """
graph @mlp[B in 1..](%x: f32[B, 8]) -> (f32[B, 3]) {
  %w = const @fc1.weight#seed=1 : f32[16, 8]  loc(fc1)
  %b = const @fc1.bias#seed=2 : f32[16]  loc(fc1)
  %h = linear %x, %w, %b : f32[B, 16]  loc(fc1)
  %r = sigmoid %h : f32[B, 16]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[3, 16]  loc(fc2)
  %y = linear %r, %v : f32[B, 3]  loc(fc2)
  return %y
}
"""


def test_a_layer_without_outputs_has_nothing_that_may_go() -> None:
    graph = parse_graph("""
graph @g[B in 1..](%x: f32[B, 4]) -> (f32[B, 0]) {
  %w = const @fc.weight#splat=1.0 : f32[0, 4]  loc(fc)
  %y = linear %x, %w : f32[B, 0]  loc(fc)
  return %y
}
""", generate=True)
    coupling = coupling_of(graph)
    assert not coupling.dimensions and not coupling.frozen


def test_every_operator_says_how_its_axes_behave() -> None:
    rules = {name: axis_rule_of(op) for name, op in all_ops().items()}
    assert [name for name, rule in rules.items() if rule is None] == []
    frozen = {name for name, rule in rules.items() if rule is not None and rule.frozen}
    assert frozen == {
        "lstm", "gru", "rnn", "arange", "eye", "rand", "randn", "randint", "multinomial", "index_put", "scatter",
        "masked_scatter", "nonzero", "searchsorted", "diagonal", "diag_embed", "fused", "cond", "item", "assert_",
    }


def test_an_mlp_has_one_dimension() -> None:
    graph = parse_graph(MLP, generate=True)
    coupling = coupling_of(graph)
    (inner,) = coupling.dimensions
    assert (inner.name, inner.kind, inner.size, inner.paths) == ("fc1.weight:0", "ffn", 16, ("fc1", "fc2"))
    assert inner.macs == 8 + 3 and inner.nbytes == 4 * (8 + 1 + 3)
    assert {(u.value.name, u.axis) for u in inner.producers} == {("w", 0), ("b", 0)}
    (consumer,) = inner.consumers
    assert consumer.node.layer == "fc2" and consumer.weight_axis == 1
    assert [(f.node.layer, f.reason) for f in coupling.frozen] == [("fc2", "the model returns it")]


def test_narrow_cuts_constants_and_shapes() -> None:
    graph = parse_graph(MLP, generate=True)
    coupling = coupling_of(graph)
    before = graph.value("w").weight.decode()
    saved = narrowed(graph, coupling.removal({coupling.dimensions[0]: [0, 5]}))
    kept = [i for i in range(16) if i not in (0, 5)]
    assert np.array_equal(graph.value("w").weight.decode(), before[kept])
    assert graph.value("r").tensor.shape[1] == 14 and saved == 2 * coupling.dimensions[0].nbytes


def test_nothing_left_is_refused_and_undone() -> None:
    graph = parse_graph(MLP, generate=True)
    text = str(graph)
    coupling = coupling_of(graph)
    with pytest.raises(PassError, match="nothing of"):
        narrowed(graph, coupling.removal({coupling.dimensions[0]: range(16)}))
    assert str(graph) == text


def test_operations_are_those_of_the_narrower_graph() -> None:
    graph, _ = network("resnet-a")
    coupling = coupling_of(graph)
    operations = Operations(graph, coupling)
    counts = operations.sizes.copy()
    gone = {}
    for d in coupling.dimensions:
        counts[d.index] -= d.size // 3
        gone[d] = np.arange(d.size // 3)
    foretold = operations.total(counts), operations.nbytes() - operations.nbytes(counts)
    saved = narrowed(graph, coupling.removal(gone))
    assert (Operations(graph, coupling_of(graph)).total(), saved) == foretold


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_pruned_network_equals_the_masked_one(name: str, seed: int) -> None:
    graph, inputs = network(name)
    units = check_narrow(graph, inputs, seed)
    assert sum(len(u) for u in units.values()) > 0


@pytest.mark.parametrize(("name", "kinds"), [
    ("plain", {"channels": 2, "ffn": 1}),
    ("resnet-a", {"channels": 3, "stream": 3}),
    ("mobile", {"channels": 4, "stream": 1}),
    ("dense", {"channels": 4}),
    ("next", {"ffn": 1, "stream": 1}),
    ("gated", {"ffn": 1, "heads": 1, "channels": 1}),
])
def test_kinds_of_dimensions(name: str, kinds: dict[str, int]) -> None:
    graph, _ = network(name)
    found: dict[str, int] = {}
    for d in coupling_of(graph).dimensions:
        found[d.kind] = found.get(d.kind, 0) + 1
    assert found == kinds


@pytest.mark.parametrize(("name", "heads"), [("bert", 4), ("llama", 2), ("gpt2", 4), ("t5", 4), ("vit", 4)])
def test_transformers_lose_heads_and_inner_units(name: str, heads: int) -> None:
    graph, inputs = transformer(name)
    coupling = coupling_of(graph)
    own = {kind: [d.size for d in coupling.dimensions if d.kind == kind] for kind in ("heads", "ffn")}
    assert own["heads"] == ([heads, heads] if name != "t5" else own["heads"]) and len(own["ffn"]) >= 2
    assert name != "t5" or own["heads"]
    before = weights_of(graph)
    units = check_narrow(graph, inputs)
    assert any(len(u) for d, u in units.items() if d.kind == "heads") and before > 0


# random graphs


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(max_steps=14, smooth=True), seed=st.integers(0, 5))
def test_random_graphs_equal_their_masked_selves(graph: Graph, seed: int) -> None:
    from mcomp.errors import BackendError

    inputs = inputs_for(graph, 2, seed)
    try:
        from mcomp.ops.evaluate import run_graph

        run_graph(graph, inputs)
    except BackendError:
        return
    check_narrow(graph, inputs, seed)


class _Net:
    """A random image network under construction; every value is f32[B, C, 4, 4]."""

    def __init__(self, draw: st.DrawFn, graph: Graph, editor: Any) -> None:
        self.draw, self.graph, self.editor = draw, graph, editor
        self.rng = np.random.default_rng(draw(st.integers(0, 3)))
        self.values: list[Value] = []

    def const(self, *shape: int) -> Value:
        return self.editor.const((self.rng.standard_normal(shape) / 3).astype(np.float32), name="w")

    def conv(self, x: Value, outputs: int, groups: int = 1) -> Value:
        channels = int(x.tensor.shape[1])
        weight = self.const(outputs, channels // groups, 3, 3)
        attrs = {"stride": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": groups}
        return self.editor.add("conv", [x, weight, self.const(outputs)], attrs).result

    def step(self) -> None:
        x = self.draw(st.sampled_from(self.values[-4:]))
        channels = int(x.tensor.shape[1])
        kind = self.draw(st.sampled_from(("conv", "grouped", "relu", "add", "cat", "split", "pad", "slice", "mul", "heads",
                                          "flip", "norm", "group_norm", "repeat")))
        same = [v for v in self.values if v.tensor.shape == x.tensor.shape]
        add = self.editor.add
        if kind == "conv":
            self.values.append(self.conv(x, self.draw(st.sampled_from((4, 6, 8)))))
        elif kind == "grouped":
            groups = self.draw(st.sampled_from([g for g in (2, 3, 4, 6, 8) if channels % g == 0] or [1]))
            self.values.append(self.conv(x, groups * self.draw(st.sampled_from((1, 2))), groups))
        elif kind in ("relu",):
            self.values.append(add(self.draw(st.sampled_from(("relu", "sigmoid", "tanh"))), [x]).result)
        elif kind in ("add", "mul"):
            self.values.append(add(kind, [x, self.draw(st.sampled_from(same))]).result)
        elif kind == "cat":
            other = self.draw(st.sampled_from(self.values))
            if channels + int(other.tensor.shape[1]) <= 24:
                self.values.append(add("cat", [x, other], {"axis": 1}).result)
        elif kind == "split" and channels > 1:
            at = self.draw(st.integers(1, channels - 1))
            self.values += add("split", [x], {"axis": 1, "sizes": [at, channels - at]}).results
        elif kind == "pad" and channels <= 12:
            low = self.draw(st.integers(0, 3))
            self.values.append(add("pad", [x], {"low": [0, low, 0, 0], "high": [0, 2, 0, 0]}).result)
        elif kind == "slice" and channels > 2:
            start = self.draw(st.integers(0, channels - 2))
            self.values.append(add("slice", [x], {"axis": 1, "start": start, "stop": channels - 1}).result)
        elif kind == "heads" and channels % 2 == 0:
            split = add("reshape", [x], {"shape": [sym("B"), 2, channels // 2, 4, 4]}).result
            self.values.append(add("reshape", [add("relu", [split]).result], {"shape": x.tensor.shape}).result)
        elif kind == "flip":
            self.values.append(add("flip", [x], {"axes": [1]}).result)
        elif kind == "norm":
            parts = [self.const(channels), add("exp", [self.const(channels)]).result, self.const(channels)]
            self.values.append(add("batch_norm", [x, *parts], {"eps": 1e-3}).result)
        elif kind == "group_norm" and channels % 2 == 0:
            self.values.append(add("group_norm", [x, self.const(channels)], {"groups": 2, "eps": 1e-3}).result)
        elif kind == "repeat" and channels <= 8:
            self.values.append(add("repeat", [x], {"repeats": [1, 2, 1, 1]}).result)


@st.composite
def image_graphs(draw: st.DrawFn) -> Graph:
    graph = Graph("net")
    graph.symbols["B"] = Bounds(1)
    x = graph.add_input("x", TensorType((sym("B"), 3, 4, 4), dtypes.f32))
    with graph.edit("grow") as editor:
        net = _Net(draw, graph, editor)
        net.values = [net.conv(x, 6), net.conv(x, 8)]
        for _ in range(draw(st.integers(2, 10))):
            net.step()
        ends = [v for v in net.values if not v.uses][:4] or net.values[-1:]
        heads = [net.conv(v, 2) for v in ends]
    graph.set_outputs(heads)
    return graph


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=image_graphs(), seed=st.integers(0, 3))
def test_random_image_networks_equal_their_masked_selves(graph: Graph, seed: int) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    check_narrow(graph, [x], seed)


# encodings


def _kept(*axes: tuple[int, list[int]]) -> dict[int, np.ndarray]:
    return {a: np.array(k) for a, k in axes}


@pytest.mark.parametrize("encoding", [
    Affine(dtypes.i8, axis=(0,)), Affine(dtypes.u8, axis=(0,), zero_point=True), Affine(dtypes.i8, scale=0.1),
    Affine(dtypes.i4, group=4), Affine(dtypes.i8, axis=(0, 1)),
])
def test_encoded_constants_are_cut_where_they_lie(encoding: Affine) -> None:
    data = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    type = TensorType((6, 8), dtypes.f32, encoding)
    zeros = np.full(encoding.scale_shape((6, 8)), 3, np.int32) if encoding.zero_point else None
    parts = quantize_array(data, encoding, zeros=zeros)
    columns = [4, 5, 6, 7] if encoding.group else [1, 2, 7]
    small, found = cut(type, parts, _kept((0, [0, 2, 5]), (1, columns)))
    assert np.array_equal(small.encoding.decode(found, small), encoding.decode(parts, type)[[0, 2, 5]][:, columns])


def test_sparse_constants_lose_whole_blocks_and_groups() -> None:
    rng = np.random.default_rng(0)
    blocks = BlockSparse((2, 4), 3)
    parts = {
        "values": rng.standard_normal((3, 2, 4)).astype(np.float32), "columns": np.array([0, 2, 1], np.int32),
        "rows": np.array([0, 2, 2, 3], np.int32),
    }
    type = TensorType((6, 12), dtypes.f32, blocks)
    dense = blocks.decode(parts, type)
    rows, columns = [0, 1, 4, 5], [0, 1, 2, 3, 8, 9, 10, 11]
    small, found = cut(type, parts, _kept((0, rows), (1, columns)))
    assert np.array_equal(small.encoding.decode(found, small), dense[rows][:, columns])
    with pytest.raises(ValueError, match="blocks of 2"):
        cut(type, parts, _kept((0, [0, 1, 2])))
    pairs = NM(2, 4)
    held = {"values": rng.standard_normal((3, 4)).astype(np.float32), "indices": np.tile(np.array([0, 2], np.uint8), (3, 2))}
    kind = TensorType((3, 8), dtypes.f32, pairs)
    small, found = cut(kind, held, _kept((0, [1]), (1, [4, 5, 6, 7])))
    assert np.array_equal(small.encoding.decode(found, small), pairs.decode(held, kind)[[1]][:, 4:])
    with pytest.raises(ValueError, match="groups of 4"):
        cut(kind, held, _kept((1, [0, 1, 2])))


def test_what_nothing_is_known_of_is_frozen() -> None:
    class Odd(Op):
        name = "odd_one"

        def infer(self, types: Any, attrs: Any) -> Any:
            return (types[0],)

        def reference(self, inputs: Any, attrs: Any) -> Any:
            return inputs[0]

    assert axis_rule_of(Odd()) is None
    graph = parse_graph(MLP.replace("sigmoid %h", "aten.strange %h"), generate=True)
    (first, second) = coupling_of(graph).frozen
    assert "aten.strange" in first.reason and first.node.layer == "fc1" and second.node.layer == "fc2"


def test_rules_can_be_added_once() -> None:
    from mcomp.passes.analysis import ties

    def tie(node: Any, found: Ties) -> None:
        found.stretch(node)

    ties.axis_rule("aten.strange")(tie)
    try:
        assert isinstance(ties._RULES["aten.strange"], AxisRule)
        graph = parse_graph(MLP.replace("sigmoid %h", "aten.strange %h"), generate=True)
        assert [d.size for d in coupling_of(graph).dimensions] == [16]
        with pytest.raises(ValueError, match="already"):
            ties.axis_rule("aten.strange")(tie)
    finally:
        del ties._RULES["aten.strange"]


def test_the_analysis_is_kept_until_the_graph_changes() -> None:
    graph, context = parse_graph(MLP, generate=True), Context()
    first = coupling_of(graph, context)
    assert coupling_of(graph, context) is first
    narrowed(graph, first.removal({first.dimensions[0]: [1]}))
    assert coupling_of(graph, context).dimensions[0].size == 15
