"""Patterns: what they match, and how often."""

from __future__ import annotations

from mcomp.ir import Graph, parse_graph
from mcomp.rewrite import Found, anything, const, either, maybe, number, op, through, var

x, y = var("x"), var("y")

GRAPH = """
graph @g[B in 1..](%x: f32[B, 4], %y: f32[B, 4], %h: f16[4]) -> (f32[B, 4]) {
  %w = const @w#seed=1 : f32[4, 4]
  %one = full {value = 1.0, shape = [], dtype = !f32} : f32[]
  %third = full {value = 0.3333333333, shape = [], dtype = !f16} : f16[]
  %a = sub %x, %y : f32[B, 4]
  %b = add %y, %one : f32[B, 4]
  %c = mul %a, %b : f32[B, 4]
  %d = linear %c, %w : f32[B, 4]
  %e = softmax %d {axis = 1} : f32[B, 4]
  %f = mul %h, %third : f16[4]
  %g, %i = split %e {axis = 1, sizes = [2, 2]} : f32[B, 2], f32[B, 2]
  %j = cast %e {dtype = !f64} : f64[B, 4]
  %k = cast %j {dtype = !f32} : f32[B, 4]
  %l = neg %k : f32[B, 4]
  return %l
}
"""


def graph() -> Graph:
    return parse_graph(GRAPH, generate=True)


def count(pattern: object, name: str) -> int:
    return len(list(pattern.match(graph().value(name), Found())))  # type: ignore[attr-defined]


def test_operands_in_order() -> None:
    g = graph()
    found = next(iter(op("sub", x, y).match(g.value("a"), Found())))
    assert found.bindings == {"x": g.value("x"), "y": g.value("y")}
    assert found.nodes == (g.value("a").producer,)
    assert count(op("sub", x, x), "a") == 0


def test_commutative_operands_match_in_either_order() -> None:
    assert count(op("mul", op("add", x, number(1.0)), var("a")), "c") == 1
    assert count(op("mul", var("p"), var("q")), "c") == 2
    assert count(op("sub", number(1.0), x), "a") == 0


def test_alternatives_of_operators_and_patterns() -> None:
    assert count(op("add|sub", x, y), "a") == 1
    assert count(either(op("add", x, y), op("sub", x, y)), "a") == 1
    assert count(op("mul", x, y) | op("sub", x, y), "a") == 1


def test_absent_optional_and_further_operands() -> None:
    assert count(op("linear", x, const("w"), None), "d") == 1
    assert count(op("linear", x, const("w"), maybe("bias")), "d") == 1
    assert count(op("linear", x, const("w"), var("bias")), "d") == 0
    assert count(op("linear", x, anything()), "d") == 1
    assert count(op("linear", x), "d") == 0
    assert count(op("linear", x, rest=True), "d") == 1
    assert count(op("linear", x, const("w", lambda v: v.tensor.rank == 1)), "d") == 0


def test_attributes_by_value_and_predicate() -> None:
    assert count(op("softmax", x, attrs={"axis": 1}), "e") == 1
    assert count(op("softmax", x, attrs={"axis": 0}), "e") == 0
    assert count(op("softmax", x, attrs={"axis": lambda a: a > 0}), "e") == 1
    assert count(op("softmax", x, where=lambda node: len(node.result.uses) == 1), "e") == 0


def test_numbers_are_compared_as_the_element_type_holds_them() -> None:
    assert count(op("mul", x, number(1 / 3, tolerance=1e-6)), "f") == 1
    assert count(op("mul", x, number(0.333)), "f") == 0
    found = next(iter(op("mul", x, number("c")).match(graph().value("f"), Found())))
    assert found.bindings["c"] == 0.333251953125
    assert count(op("add", x, number(where=lambda n: n > 1)), "b") == 0


def test_results_by_index() -> None:
    assert count(op("split", x), "g") == 1
    assert count(op("split", x), "i") == 0
    assert count(op("split", x, index=1), "i") == 1


def test_through_a_chain() -> None:
    assert count(op("neg", through("cast", op("softmax", x))), "l") == 1
    assert count(op("neg", through("cast", op("softmax", x), at_most=1)), "l") == 0
    assert count(op("neg", through("cast", x)), "l") == 3
