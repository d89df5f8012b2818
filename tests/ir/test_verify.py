"""The verifier: every rule has a graph that breaks it, and the error shows where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcomp.errors import IRError, VerifyError
from mcomp.ir import (
    Affine,
    Bounds,
    Graph,
    InputSpec,
    Layout,
    Node,
    OutputSpec,
    TensorType,
    WeightStore,
    parse_graph,
    sym,
    verify,
)
from mcomp.ir.dtypes import f32, i64
from mcomp.ir.verifier import compatible

_TEXT = """graph @net[B in 0..](%x: f32[B, 4]) -> (f32[B, 4]) {
  %a = neg %x : f32[B, 4]  loc(block.0 "net.py":7)
  %b = abs %a : f32[B, 4]
  %c = relu %b : f32[B, 4]  loc(block.1)
  return %c
}"""


def _node(graph: Graph, name: str) -> Node:
    node = graph.value(name).producer
    assert node is not None
    return node


def _type_of(name: str, type: TensorType) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        with graph.edit() as e:
            e.set_type(graph.value(name), type)
    return change


def _late_use(graph: Graph) -> None:
    with graph.edit() as e:
        e.set_operand(_node(graph, "a"), 0, graph.value("c"))


def _lost_use(graph: Graph) -> None:
    graph.value("a")._uses.clear()


def _foreign_use(graph: Graph) -> None:
    graph.value("x")._uses[(_node(graph, "c"), 0)] = None


def _same_name(graph: Graph) -> None:
    graph.value("b").name = "a"


def _dropped_symbol(graph: Graph) -> None:
    del graph.symbols["B"]


def _unknown_state(graph: Graph) -> None:
    graph.output_specs = [OutputSpec("state", "cache")]


def _unknown_mutated(graph: Graph) -> None:
    graph.output_specs = [OutputSpec("mutated", "y")]


def _missing_specs(graph: Graph) -> None:
    graph.output_specs = []


def _unknown_input_kind(graph: Graph) -> None:
    graph.input_specs = [InputSpec("parameter")]


def _missing_operand(graph: Graph) -> None:
    with graph.edit() as e:
        e.set_operand(_node(graph, "b"), 0, None)


_B = sym("B")
_FAULTS: list[tuple[str, Callable[[Graph], None], str]] = [
    ("element type", _type_of("b", TensorType((_B, 4), i64)), "%b is i64[B, 4], but abs gives f32[B, 4]"),
    ("size", _type_of("b", TensorType((_B, 5), f32)), "%b is f32[B, 5], but abs gives f32[B, 4]"),
    ("shifted size", _type_of("b", TensorType((_B + 1, 4), f32)), "but abs gives"),
    ("rank", _type_of("b", TensorType((_B,), f32)), "but abs gives"),
    ("negative size", _type_of("x", TensorType((_B, -4), f32)), "%x has a negative size"),
    ("encoding", _type_of("x", TensorType((_B, 4), f32, Affine(group=3))), "group 3 does not divide 4"),
    ("layout", _type_of("x", TensorType((_B, 4), f32, layout=Layout((0, 2)))), "is no layout of %x"),
    ("order", _late_use, "%c is used before it is defined"),
    ("lost use", _lost_use, "%a does not list this use"),
    ("foreign use", _foreign_use, "the use list of %x names relu"),
    ("name", _same_name, "the name %a is used twice"),
    ("symbol", _dropped_symbol, "the size B of %x is not declared"),
    ("state", _unknown_state, "the output state @cache has no input"),
    ("mutated", _unknown_mutated, "the mutated argument %y is no input"),
    ("output specs", _missing_specs, "1 outputs with 0 specs"),
    ("input kind", _unknown_input_kind, "unknown kind parameter"),
    ("operand", _missing_operand, "abs lacks its operand `x`"),
]


@pytest.mark.parametrize(("change", "message"), [f[1:] for f in _FAULTS], ids=[f[0] for f in _FAULTS])
def test_each_rule(change: Callable[[Graph], None], message: str) -> None:
    graph = parse_graph(_TEXT)
    verify(graph)
    change(graph)
    with pytest.raises(VerifyError) as raised:
        verify(graph)
    assert message in str(raised.value)


def test_the_error_shows_the_node_among_its_neighbours_and_the_layer() -> None:
    graph = parse_graph(_TEXT)
    _type_of("a", TensorType((_B, 3), f32))(graph)
    with pytest.raises(VerifyError) as raised:
        verify(graph)
    error = raised.value
    assert error.where == 'block.0 "net.py":7'
    assert error.ir is not None
    assert error.ir.split("\n")[0] == "-> %a = neg %x : f32[B, 3]"
    assert error.ir.split("\n")[1] == "   %b = abs %a : f32[B, 4]"


def test_nested_graphs_are_checked() -> None:
    graph = parse_graph("""graph @g(%x: f32[4]) -> (f32[4]) {
  %y = fused %x {kind = "pointwise", body = graph @body(%a: f32[4]) -> (f32[4]) {
      %r = relu %a : f32[4]
      return %r
    }} : f32[4]
  return %y
}""")
    verify(graph)
    (body,) = _node(graph, "y").bodies
    with body.edit() as e:
        e.set_type(body.value("r"), TensorType((4,), i64))
    with pytest.raises(VerifyError, match="relu gives"):
        verify(graph)


def test_an_unknown_weight_is_an_error() -> None:
    graph = parse_graph("graph @g() -> (f32[2]) {\n  %w = const @w#splat=1 : f32[2]\n  return %w\n}", generate=True)
    with graph.edit() as e:
        e.set_attrs(_node(graph, "w"), digest="0" * 32)
    with pytest.raises(VerifyError, match="no weight with digest"):
        verify(graph)


def test_errors_of_inference_name_layer_and_operands() -> None:
    graph = parse_graph(_TEXT)
    with pytest.raises(IRError) as raised, graph.edit() as e:
        e.add("add", [graph.value("x"), e.add("full", [], {"value": 1, "shape": (3,)}).result])
    assert "shapes [B, 4] and [3] do not broadcast" in raised.value.message
    assert raised.value.ir == "add(f32[B, 4], f32[3])"


def test_types_that_may_be_equal() -> None:
    assert compatible(TensorType((_B, 4), f32), TensorType((sym("S"), 4), f32))
    assert compatible(TensorType((_B,), f32), TensorType((4,), f32))
    assert not compatible(TensorType((_B,), f32), TensorType((_B + 1,), f32))
    assert not compatible(TensorType((4,), f32), TensorType((4, 1), f32))


def test_bounds_are_part_of_the_graph() -> None:
    graph = parse_graph(_TEXT)
    assert graph.symbols == {"B": Bounds(0)}


def _stateful(inputs: str, types: str, returned: str) -> Graph:
    """A graph without nodes; `#w` is a weight of f32[4]."""
    store = WeightStore()
    initial = store.add(TensorType((4,), f32), np.zeros(4, np.float32))
    text = f"graph @g[B in 1..]({inputs}) -> ({types}) {{\n  return {returned}\n}}"
    return parse_graph(text.replace("#w", f"#{initial.digest}"), store)


@pytest.mark.parametrize(("inputs", "types", "returned", "message"), [
    ("state @s#w %s: f32[1000000]", "f32[1000000]", "state @s = %s", "starts from a weight that is f32[4]"),
    ("state @s#w %s: i32[4]", "i32[4]", "state @s = %s", "starts from a weight that is f32[4]"),
    ("state @s %s: f32[B]", "f32[B]", "state @s = %s", "is a dense tensor of fixed sizes"),
    ("state @s %s: f32[4, 4] affine<i8, axis=0>", "f32[4, 4] affine<i8, axis=0>", "%s", "is a dense tensor of fixed sizes"),
    ("state @s %s: f32[4], %x: f32[4]", "f32[4]", "state @s = %x", "the argument %x follows a state"),
    ("state @s %s: f32[4], state @s %t: f32[4]", "f32[4]", "state @s = %s", "the state @s has two inputs"),
    ("%x: f32[1], state @s %s: f32[4]", "f32[1]", "state @s = %x", "%x is f32[1], but goes to %s, which is f32[4]"),
    ("%x: f32[B], state @s %s: f32[4]", "f32[B]", "state @s = %x", "%x is f32[B], but goes to %s, which is f32[4]"),
    ("%x: f32[B], %y: i32[B]", "i32[B]", "mutated @x = %y", "%y is i32[B], but goes to %x, which is f32[B]"),
    ("%x: f32[4], state @s %s: f32[4]", "f32[4], f32[4]", "state @s = %x, state @s = %s", "two outputs go to @s"),
])
def test_states_have_one_place_and_one_type(inputs: str, types: str, returned: str, message: str) -> None:
    with pytest.raises(VerifyError) as raised:
        verify(_stateful(inputs, types, returned))
    assert message in str(raised.value)


def test_states_that_fit() -> None:
    verify(_stateful("%x: f32[4], state @s#w %s: f32[4]", "f32[4]", "state @s = %x"))
    verify(_stateful("%x: f32[B], %y: f32[2*B]", "f32[2*B]", "mutated @x = %y"))
