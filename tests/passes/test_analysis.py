"""Cost, liveness and density on graphs small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mcomp.ir import NM, Affine, Bounds, Graph, TensorType, dtypes, parse_graph, sym
from mcomp.ir.encoding import quantize_array
from mcomp.manager.context import Context
from mcomp.passes.analysis import Cost, Density, GraphCost, Intervals, Liveness, weight_bytes
from mcomp.plan.profile import DeviceProfile

_CHAIN = """graph @chain[B in 1..](%x: f32[B, 8]) -> (f32[B, 4]) {
  %w = const @fc1.weight#seed=1 : f32[16, 8]
  %h = linear %x, %w, _ : f32[B, 16] loc(fc1)
  %e = exp %h : f32[B, 16]
  %s = add %h, %e : f32[B, 16]
  %r = reshape %s {shape = [B, 2, 8]} : f32[B, 2, 8]
  %m = sum %r {axes = [2], keepdim = false} : f32[B, 2]
  %v = const @fc2.weight#seed=2 : f32[4, 2]
  %y = linear %m, %v, _ : f32[B, 4] loc(fc2)
  return %y
}"""
_PROFILE = DeviceProfile("test", 1, (("f32", 1e9), ("i8", 4e9), ("scalar", 1e8)), ((1000, 1e9), (10**6, 1e8)), 2.0)


def _graph(text: str = _CHAIN) -> Graph:
    return parse_graph(text, generate=True)


def _cost(graph: Graph, **options: object) -> GraphCost:
    return Context().analyze(graph, Cost(**options))  # type: ignore[arg-type]


# liveness

def test_intervals_of_a_chain() -> None:
    found: Intervals = Context().analyze(_graph(), Liveness())
    assert {n: (i.start, i.end, i.kind) for n, i in found.by_name.items()} == {
        "x": (-1, 1, "input"), "h": (1, 3, "intermediate"), "e": (2, 3, "intermediate"),
        "s": (3, 5, "intermediate"), "m": (5, 7, "intermediate"), "y": (7, 8, "output"),
    }
    assert found.roots == {"r": "s"}
    assert [i.name for i in found.alive(3)] == ["h", "e", "s"]


def test_peak_of_a_chain() -> None:
    found: Intervals = Context().analyze(_graph(), Liveness())
    assert found.peak({"B": 3}) == (3 * 3 * 16 * 4, 3)
    assert found.peak({"B": 3}, inputs=True) == (3 * 3 * 16 * 4, 3)
    assert found.peak() == (3 * 16 * 4, 3)


def test_inputs_outputs_and_views_of_constants() -> None:
    graph = _graph("""graph @g(%x: f32[100]) -> (f32[100], f32[8], f32[50, 2]) {
      %w = const @w#seed=1 : f32[2, 4]
      %u = reshape %w {shape = [8]} : f32[8]
      %y = neg %x : f32[100]
      %z = neg %y : f32[100]
      %v = reshape %x {shape = [50, 2]} : f32[50, 2]
      return %y, %u, %v
    }""")
    found: Intervals = Context().analyze(graph, Liveness())
    assert set(found.by_name) == {"x", "y", "z"}
    assert found.by_name["x"].end == len(graph)
    assert (found.by_name["y"].end, found.by_name["y"].kind) == (5, "output")
    assert (found.by_name["z"].start, found.by_name["z"].end) == (3, 3)
    assert found.peak() == (800, 3)
    assert found.peak(inputs=True) == (1200, 3)


def test_a_graph_without_nodes() -> None:
    found: Intervals = Context().analyze(_graph("graph @g(%x: f32[4]) -> (f32[4]) {\n return %x\n}"), Liveness())
    assert found.peak() == (0, 0)
    assert found.peak(inputs=True)[0] == 16


# cost

def test_costs_of_a_chain() -> None:
    found = _cost(_graph(), symbols=(("B", 3),))
    assert [(n.name, n.op, n.flops, n.read, n.write, n.weights) for n in found.nodes] == [
        ("h", "linear", 2 * 3 * 16 * 8, 4 * (24 + 128), 4 * 48, 512),
        ("e", "exp", found.node("e").flops, 4 * 48, 4 * 48, 0),
        ("s", "add", 48, 8 * 48, 4 * 48, 0),
        ("r", "reshape", 0, 0, 0, 0),
        ("m", "sum", found.node("m").flops, 4 * 48, 4 * 6, 0),
        ("y", "linear", 2 * 3 * 4 * 2, 4 * (6 + 8), 4 * 12, 32),
    ]
    assert found.node("h").layer == "fc1"
    assert found.weight_bytes == {"f32": 4 * (128 + 8)}
    assert found.total_weight_bytes == 544
    assert (found.peak_activation_bytes, found.peak_node) == (576, "s")
    assert found.time_us is None
    assert found.symbols == {"B": 3}
    with pytest.raises(KeyError):
        found.node("nothing")


def test_symbolic_operations_hold_for_all_sizes() -> None:
    from mcomp.ir import dims

    graph = _graph()
    for b in (1, 7):
        found = _cost(graph, symbols=(("B", b),))
        assert dims.evaluate(found.symbolic_flops, {"B": b}) == found.flops


def test_unknown_sizes_count_as_their_bound() -> None:
    graph = _graph()
    graph.symbols["B"] = Bounds(1, 5)
    assert _cost(graph).flops == _cost(graph, symbols=(("B", 5),)).flops


def test_predicted_times_follow_the_roofline() -> None:
    found = _cost(_graph(), symbols=(("B", 3),), profile=_PROFILE)
    h = found.node("h")
    computing = 768 / 1e9
    moving = (h.read + h.write - 512) / 1e9 + 512 / 1e9
    assert h.time_us == pytest.approx(max(computing, moving) * 1e6 + 2.0)
    assert found.node("r").time_us == 0.0
    assert found.node("s").time_us == pytest.approx((3 * 48 * 4 / 1e9) * 1e6 + 2.0)
    assert found.time_us == pytest.approx(sum(n.time_us or 0.0 for n in found.nodes))


def test_weights_come_from_where_all_weights_fit() -> None:
    near = _PROFILE.predict_us({}, 0.0, weights=500)
    far = _PROFILE.predict_us({}, 0.0, weights=500, all_weights=10_000)
    assert (near, far) == (pytest.approx(2.5), pytest.approx(7.0))


def test_integer_products_run_at_the_integer_rate() -> None:
    graph = Graph("g")
    graph.symbols["B"] = Bounds(1)
    data = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    kind = TensorType((64, 64), dtypes.f32, Affine(axis=(0,)))
    x = graph.add_input("x", TensorType((sym("B"), 64), dtypes.f32))
    with graph.edit("test") as e:
        w = e.const(data, name="w", type=kind, parts=quantize_array(data, kind.encoding))
        q = e.add("quantize", [x]).result
        full, half = e.add("linear", [q, w]).result, e.add("linear", [x, w]).result
    graph.set_outputs([full, half])
    fast = replace(_PROFILE, bandwidth=((1, 1e15),))
    found = _cost(graph, symbols=(("B", 1000),), profile=fast)
    flops = 2 * 1000 * 64 * 64
    assert found.node(full.name).time_us == pytest.approx(flops / 4e9 * 1e6 + 2.0)
    assert found.node(half.name).time_us == pytest.approx(flops / 1e9 * 1e6 + 2.0)
    assert found.weight_bytes == {"i8": 64 * 64 + 64 * 4}


def test_bytes_by_encoding_count_equal_constants_once() -> None:
    graph = Graph("g")
    data = np.ones((4, 8), np.float32)
    sparse = TensorType((4, 8), dtypes.f32, NM(2, 4, Affine(axis=(0,))))
    parts = {**quantize_array(np.ones((4, 4), np.float32), Affine(axis=(0,))),
             "indices": np.tile(np.array([0, 1, 0, 1], np.uint8), (4, 1))}
    with graph.edit("test") as e:
        outputs = [e.const(data, name="a"), e.const(data, name="b"),
                   e.const(data, name="c", type=sparse, parts=parts), e.const(np.zeros(3, np.int64), name="d")]
    graph.set_outputs(outputs)
    assert weight_bytes(graph) == {"f32": 128, "i8 nm": 16 + 16 + 16, "i64": 24}


def test_nested_graphs_are_counted() -> None:
    graph = _graph("""graph @g[B in 0..](%x: f32[B, 8]) -> (f32[B, 8]) {
      %y = fused %x {kind = "", body = graph @body[B in 0..](%a: f32[B, 8]) -> (f32[B, 8]) {
          %w = const @w#seed=1 : f32[8, 8]
          %h = linear %a, %w, _ : f32[B, 8]
          %n = neg %h : f32[B, 8]
          return %n
        }} : f32[B, 8]
      return %y
    }""")
    found = _cost(graph, symbols=(("B", 2),))
    y = found.node("y")
    assert (y.flops, y.read, y.write, y.weights) == (2 * 2 * 64 + 16, 4 * 16 + 256, 64, 256)
    assert found.weight_bytes == {"f32": 256}


def test_results_are_cached_until_the_graph_changes() -> None:
    graph, context = _graph(), Context()
    first = context.analyze(graph, Cost())
    assert context.analyze(graph, Cost()) is first
    assert context.analyze(graph, Cost(symbols=(("B", 9),))) is not first
    with graph.edit("test") as e:
        e.add("neg", [graph.value("y")])
    assert context.analyze(graph, Cost()) is not first


# density

def test_zeros_and_their_patterns() -> None:
    graph = Graph("g")
    data = np.ones((8, 16), np.float32)
    data[:4, :4] = 0
    data[4:, 1::4] = data[4:, 2::4] = 0
    with graph.edit("test") as e:
        graph.set_outputs([e.const(data, name="w"), e.const(np.zeros(5, np.float32), name="bias"),
                           e.const(np.zeros((2, 2), np.int64), name="table")])
    found = Context().analyze(graph, Density(blocks=((4, 4), (1, 8), (8, 8), (3, 4))))
    (only,) = found.values()
    assert (only.name, only.shape) == ("w", (8, 16))
    assert only.zeros == (16 + 32) / 128
    assert only.two_of_four == (4 + 16) / 32
    assert only.blocks == {(4, 4): 1 / 8, (1, 8): 0.0, (8, 8): 0.0}


def test_encoded_constants_are_decoded_first() -> None:
    graph = Graph("g")
    data = np.array([[1.0, 0.001, -1.0, 0.5, 0.0, 0.0]], np.float32)
    kind = TensorType((1, 6), dtypes.f32, Affine())
    with graph.edit("test") as e:
        graph.set_outputs([e.const(data, name="w", type=kind, parts=quantize_array(data, kind.encoding)),
                           e.const(np.zeros((0, 4), np.float32), name="empty")])
    weights = {w.name: w for w in Context().analyze(graph, Density()).values()}
    assert weights["w"].zeros == 0.5
    assert weights["w"].two_of_four is None
    assert (weights["empty"].zeros, weights["empty"].blocks) == (0.0, {})
