"""Running graphs: symbols, attributes with sizes, constants, nested graphs, sizes from data, errors."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.errors import BackendError, CallError, IRError
from mcomp.ir import Affine, Bounds, Graph, InputSpec, TensorType, dtypes, parse_graph, sym
from mcomp.ir.binding import assume_symbols, bind_inputs, bind_symbols
from mcomp.ir.encoding import quantize_array
from mcomp.ops.encoded import Encoded
from mcomp.ops.evaluate import evaluate_attrs, run_graph


def _graph(text: str) -> Graph:
    return parse_graph(text, generate=True)


_MLP = """graph @mlp[B in 1..64](%x: f32[B, 8], %y: f32[B, 4]) -> (f32[B, 4]) {
  %w = const @fc.weight#seed=1 : f32[4, 8]
  %h = linear %x, %w, _ : f32[B, 4]
  %z = add %h, %y : f32[B, 4]
  return %z
}"""


def test_a_graph_computes_what_its_operators_say() -> None:
    graph = _graph(_MLP)
    x, y = torch.randn(3, 8), torch.randn(3, 4)
    weight = torch.from_numpy(np.array(graph.value("w").weight.decode()))  # type: ignore[union-attr]
    (found,) = run_graph(graph, [x, y])
    torch.testing.assert_close(found, x @ weight.T + y)


# binding symbols

@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(3, 7), (3, 4)], r"input x: dim 1 is 7, expected 8"),
        ([(3, 8), (2, 4)], r"input y: dim 0 is 2, expected B = 3 \(B = 3 from dim 0 of x\)"),
        ([(8,), (3, 4)], r"input x: rank 1"),
        ([(3, 8)], r"1 inputs given, 2 expected"),
        ([(3, 8), (3, 4), (1,)], r"3 inputs given, 2 expected"),
        ([(0, 8), (0, 4)], r"dim 0 gives B = 0, but B must be from 1 to 64"),
        ([(65, 8), (65, 4)], r"from 1 to 64"),
        ([(3, 8), None], r"input y: a number was given"),
    ],
)
def test_shapes_that_do_not_fit(shapes: list[Any], words: str) -> None:
    with pytest.raises(CallError, match=words):
        bind_symbols(_graph(_MLP), shapes)


def test_names_in_errors_and_element_types() -> None:
    with pytest.raises(CallError, match=r"input args\[0\]: dim 1"):
        bind_symbols(_graph(_MLP), [(3, 7), (3, 4)], names=["args[0]", "args[1]"])
    with pytest.raises(CallError, match=r"input y: elements are f64, expected f32"):
        bind_inputs(_graph(_MLP), [torch.zeros(1, 8), torch.zeros(1, 4).double()])
    with pytest.raises(CallError, match=r"input y: elements are i32, expected f32"):
        bind_inputs(_graph(_MLP), [np.zeros((1, 8), np.float32), np.zeros((1, 4), np.int32)])
    with pytest.raises(CallError, match="input x is a str"):
        bind_inputs(_graph(_MLP), ["no", torch.zeros(1, 4)])


def _typed(*shapes: tuple[Any, ...]) -> Graph:
    graph = Graph("g")
    for name in ("B", "S", "T"):
        graph.symbols[name] = Bounds(0)
    for i, shape in enumerate(shapes):
        graph.add_input(f"x{i}", TensorType(shape, dtypes.f32))
    return graph


def test_symbols_are_solved_in_any_order() -> None:
    b, s = sym("B"), sym("S")
    graph = _typed((b * s, 2 * s + 1), (s - 1,))
    assert bind_symbols(graph, [(12, 9), (3,)]) == {"B": 3, "S": 4}


def test_sizes_without_whole_solution_and_undetermined_ones() -> None:
    s, t = sym("S"), sym("T")
    with pytest.raises(CallError, match=r"dim 0 is 5, which no whole number makes out of 2\*S"):
        bind_symbols(_typed((2 * s,)), [(5,)])
    with pytest.raises(CallError, match=r"do not determine the size S"):
        bind_symbols(_typed((s * t,)), [(5,)])
    with pytest.raises(CallError, match=r"dim 1 is 9, expected"):
        bind_symbols(_typed((s, (s + 3) // 4)), [(8, 9)])


def test_states_may_be_left_out() -> None:
    graph = _typed((sym("B"), 2))
    graph.add_input("cache", TensorType((3,), dtypes.f32), InputSpec("state", "cache"))
    assert bind_symbols(graph, [(4, 2)]) == {"B": 4}
    with pytest.raises(CallError, match="0 inputs given, 1 expected"):
        bind_symbols(graph, [])


def test_guesses_for_unknown_sizes() -> None:
    graph = _graph(_MLP)
    graph.symbols["u"] = Bounds(5)
    assert assume_symbols(graph, {}) == {"B": 64, "u": 5}
    assert assume_symbols(graph, {"B": 2}, default=9) == {"B": 2, "u": 9}


# nodes

def test_sizes_in_nested_attributes() -> None:
    b = sym("B")
    found = evaluate_attrs({"shape": (b * 2, ((b, 3), "x")), "value": 1.5, "none": None}, {"B": 4})
    assert found == {"shape": (8, ((4, 3), "x")), "value": 1.5, "none": None}


def test_sizes_that_data_decides() -> None:
    graph = _graph("""graph @g[B in 0.., u in 0..](%x: f32[B]) -> (i64[u, 1], f32[u]) {
      %zero = full {value = 0.0, shape = [], dtype = !f32} : f32[]
      %m = gt %x, %zero : bool[B]
      %i = nonzero %m {symbol = "u"} : i64[u, 1]
      %f = full {value = 2.0, shape = [u], dtype = !f32} : f32[u]
      return %i, %f
    }""")
    places, filled = run_graph(graph, [torch.tensor([1.0, -1.0, 2.0, 3.0])])
    assert places.flatten().tolist() == [0, 2, 3]
    assert filled.tolist() == [2.0, 2.0, 2.0]


def test_a_size_from_an_item() -> None:
    graph = _graph("""graph @g[n in 0..](%x: i64[]) -> (f32[n + 1]) {
      %i = item %x {symbol = "n"} : scalar<i64>
      %f = full {value = 2.0, shape = [n + 1], dtype = !f32} : f32[n + 1]
      return %f
    }""")
    assert run_graph(graph, [torch.tensor(3)])[0].shape == (4,)


def test_choosing_a_graph() -> None:
    graph = _graph("""graph @g[B in 0..](%p: bool[], %x: f32[B]) -> (f32[B]) {
      %y = cond %p, %x {then = graph @a[B in 0..](%a: f32[B]) -> (f32[B]) {
          %n = neg %a : f32[B]
          return %n
        }, else = graph @b[B in 0..](%b: f32[B]) -> (f32[B]) {
          %e = exp %b : f32[B]
          return %e
        }} : f32[B]
      return %y
    }""")
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(run_graph(graph, [torch.tensor(True), x])[0], -x)
    assert torch.equal(run_graph(graph, [torch.tensor(False), x])[0], x.exp())


def test_a_fused_region_and_what_observers_see() -> None:
    graph = _graph("""graph @g[B in 0..](%x: f32[B, 4]) -> (f32[B, 4]) {
      %y = fused %x {kind = "loop", body = graph @body[B in 0..](%a: f32[B, 4]) -> (f32[B, 4]) {
          %e = exp %a : f32[B, 4]
          %n = neg %e : f32[B, 4]
          return %n
        }} : f32[B, 4]
      return %y
    }""")
    seen: list[tuple[str, torch.Tensor]] = []
    x = torch.randn(2, 4)
    (found,) = run_graph(graph, [x], observe=lambda node, results: seen.append((node.op.name, results[0])))
    assert [name for name, _ in seen] == ["exp", "neg", "fused"]
    assert torch.equal(seen[0][1], x.exp())
    assert torch.equal(found, -x.exp())


def test_encoded_operands_are_decoded() -> None:
    graph = Graph("g")
    graph.symbols["B"] = Bounds(0)
    data = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    kind = TensorType((4, 8), dtypes.f32, Affine(axis=(0,)))
    x = graph.add_input("x", TensorType((sym("B"), 8), dtypes.f32))
    with graph.edit("test") as e:
        w = e.const(data, name="w", type=kind, parts=quantize_array(data, kind.encoding))
        q = e.add("quantize", [x]).result
        y = e.add("linear", [q, w]).result
    graph.set_outputs([y, q])
    given = torch.randn(3, 8)
    out, encoded = run_graph(graph, [given])
    assert isinstance(encoded, Encoded)
    torch.testing.assert_close(out, encoded.decode() @ torch.from_numpy(w.weight.decode()).T)  # type: ignore[union-attr]
    assert (out - given @ torch.from_numpy(data).T).norm() / out.norm() < 0.03


def test_opaque_operators_run_in_torch() -> None:
    graph = _graph("""graph @g(%x: f32[3, 4]) -> (f32[3, 4]) {
      %y = aten.logaddexp2.default %x, %x {args = ["$0", "$1"]} : f32[3, 4]
      return %y
    }""")
    x = torch.randn(3, 4)
    torch.testing.assert_close(run_graph(graph, [x])[0], x + 1)


def test_results_are_freed_after_their_last_use() -> None:
    graph = _graph("""graph @g(%x: f32[4]) -> (f32[4]) {
      %a = exp %x : f32[4]
      %b = neg %a : f32[4]
      %c = neg %b : f32[4]
      return %c
    }""")
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []

    def observe(node: Any, results: tuple[torch.Tensor, ...]) -> None:
        made.append(weakref.ref(results[0]))
        alive.append([r() is not None for r in made])

    run_graph(graph, [torch.randn(4)], observe=observe)
    assert alive[2] == [False, True, True]


# errors

def test_a_failing_operator_names_its_node() -> None:
    graph = _graph("""graph @g(%x: f32[4, 4]) -> (f32[4, 4]) {
      %y = aten.linalg_inv.default %x {args = ["$0"]} : f32[4, 4] loc(head "model.py":7)
      return %y
    }""")
    with pytest.raises(BackendError, match=r"(?s)linalg_inv.*float32\[4, 4\].*head \"model.py\":7.*help: check the values"):
        run_graph(graph, [torch.zeros(4, 4)])


def test_an_assertion_names_its_node() -> None:
    graph = _graph("""graph @g(%x: bool[2]) -> (bool[2]) {
      assert_ %x {message = "sizes differ"} loc(head "model.py":7)
      return %x
    }""")
    run_graph(graph, [torch.tensor([True, True])])
    with pytest.raises(IRError, match=r"(?s)sizes differ .*head \"model.py\":7"):
        run_graph(graph, [torch.tensor([True, False])])


def test_a_result_that_is_not_of_the_stated_type() -> None:
    graph = _graph("""graph @g(%x: f32[4]) -> (f32[5]) {
      %y = aten.neg.default %x {args = ["$0"]} : f32[5]
      return %y
    }""")
    with pytest.raises(IRError, match=r"%y has 4 along axis 0, but the graph states f32\[5\]"):
        run_graph(graph, [torch.zeros(4)])
    graph = _graph("""graph @g(%x: f32[4]) -> (i64[4]) {
      %y = aten.neg.default %x {args = ["$0"]} : i64[4]
      return %y
    }""")
    with pytest.raises(IRError, match=r"elements torch.float32"):
        run_graph(graph, [torch.zeros(4)])


def test_a_size_without_a_value() -> None:
    graph = _graph("""graph @g[u in 0..](%x: f32[4]) -> (f32[u]) {
      %y = full {value = 1.0, shape = [u], dtype = !f32} : f32[u]
      return %y
    }""")
    with pytest.raises(IRError, match="the size u has no value"):
        run_graph(graph, [torch.zeros(4)])
