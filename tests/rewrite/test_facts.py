"""What is known about values without running."""

from __future__ import annotations

import math
import time

import pytest

from mcomp.ir import Graph, parse_graph
from mcomp.ir.dtypes import bf16, f16, f32, i64
from mcomp.ops.evaluate import run_graph
from mcomp.rewrite.facts import as_held, interval, never_negative_zero, number_of, ramp, shortest

GRAPH = """
graph @g[S in 1..](%x: f32[4], %p: bool[4], %n: i32[4]) -> (f32[4]) {
  %two = full {value = 2.0, shape = [4], dtype = !f32} : f32[4]
  %size = full {value = S, shape = [], dtype = !i64} : i64[]
  %nan = full {value = nan, shape = [], dtype = !f32} : f32[]
  %w = const @w#splat=0.5 : f32[2, 2]
  %r = const @r#seed=1 : f32[2, 2]
  %we = expand %w {shape = [3, 2, 2]} : f32[3, 2, 2]
  %pf = cast %p {dtype = !f32} : f32[4]
  %hidden = sub %two, %pf : f32[4]
  %scaled = mul %hidden, %two : f32[4]
  %nf = cast %n {dtype = !f32} : f32[4]
  %e = exp %x : f32[4]
  %low = full {value = -inf, shape = [], dtype = !f32} : f32[]
  %m = where %p, %pf, %low : f32[4]
  %i = arange {start = 3, step = 2, length = S, dtype = !i64} : i64[S]
  %column = unsqueeze %i {axes = [0]} : i64[1, S]
  %row = reshape %i {shape = [S, 1]} : i64[S, 1]
  %one = full {value = 1, shape = [], dtype = !i64} : i64[]
  %moved = add %row, %one : i64[S, 1]
  %square = mul %row, %row : i64[S, 1]
  %wide = expand %column {shape = [3, S]} : i64[3, S]
  %first = arange {start = 0, step = 1, length = 1, dtype = !i64} : i64[1]
  %stretched = expand %first {shape = [4]} : i64[4]
  %zeros = full {value = 0, shape = [4], dtype = !i64} : i64[4]
  %summed = add %first, %zeros : i64[4]
  return %m
}
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return parse_graph(GRAPH, generate=True)


def test_numbers(graph: Graph) -> None:
    found = {name: number_of(graph.value(name)) for name in ("two", "size", "w", "we", "r", "x")}
    assert found == {"two": 2.0, "size": None, "w": 0.5, "we": 0.5, "r": None, "x": None}
    known = number_of(graph.value("nan"))
    assert isinstance(known, float) and math.isnan(known)


def test_numbers_as_element_types_hold_them() -> None:
    assert as_held(0.1, f32) == 0.10000000149011612
    assert as_held(0.1, f16) == 0.0999755859375
    assert as_held(0.1, bf16) == 0.10009765625
    assert as_held(3, i64) == 3 and as_held(1e300, f32) == math.inf
    assert shortest(as_held(1e-5, f32), f32) == 1e-5


def test_intervals(graph: Graph) -> None:
    assert interval(graph.value("pf")) == (0.0, 1.0)
    assert interval(graph.value("hidden")) == (1.0, 2.0)
    assert interval(graph.value("scaled")) == (2.0, 4.0)
    assert interval(graph.value("m")) == (-math.inf, 1.0)
    assert interval(graph.value("nan")) is None
    assert interval(graph.value("x")) is None
    assert interval(graph.value("e")) is None


def test_signs_of_zero(graph: Graph) -> None:
    found = [n for n in ("x", "e", "nf", "two", "n") if never_negative_zero(graph.value(n))]
    assert found == ["e", "nf", "two", "n"]


def test_ramps(graph: Graph) -> None:
    assert ramp(graph.value("i")) == (-1, 3, 2)
    assert ramp(graph.value("column")) == (-1, 3, 2)
    assert ramp(graph.value("row")) == (-2, 3, 2)
    assert ramp(graph.value("moved")) == (-2, 4, 2)
    assert ramp(graph.value("square")) is None
    assert ramp(graph.value("wide")) == (-1, 3, 2)
    assert ramp(graph.value("first")) == (-1, 0, 1)
    assert ramp(graph.value("stretched")) is None and ramp(graph.value("summed")) is None


def test_an_empty_constant_is_no_ramp() -> None:
    empty = parse_graph("graph @g() -> (i64[1, 0]) {\n  %e = const @e#splat=1 : i64[1, 0]\n  return %e\n}", generate=True)
    assert ramp(empty.value("e")) is None


def test_sums_of_sums_are_looked_at_once() -> None:
    lines = [f"  %b{i + 1} = add %b{i}, %b{i} : f32[4]\n  %j{i + 1} = add %j{i}, %j{i} : i64[4]" for i in range(40)]
    text = "\n".join([
        "graph @g(%p: bool[4], %j0: i64[4]) -> (f32[4]) {", "  %b0 = cast %p {dtype = !f32} : f32[4]", *lines,
        "  return %b40\n}",
    ])
    deep = parse_graph(text)
    start = time.perf_counter()
    assert interval(deep.value("b20")) == (0.0, 2.0**20)
    assert interval(deep.value("b40")) is None
    assert ramp(deep.value("j40")) is None
    assert time.perf_counter() - start < 5.0


def test_long_chains_of_views_are_no_ramp() -> None:
    views = [f"  %v{i + 1} = reshape %v{i} {{shape = [4]}} : i64[4]" for i in range(3000)]
    text = "\n".join([
        "graph @g() -> (i64[4]) {", "  %v0 = arange {start = 0, step = 1, length = 4, dtype = !i64} : i64[4]", *views,
        "  return %v3000\n}",
    ])
    deep = parse_graph(text)
    assert ramp(deep.value("v8")) == (-1, 0, 1)
    assert ramp(deep.value("v3000")) is None


@pytest.mark.parametrize(("line", "result"), [
    ("neg %least", "i8"), ("abs %least", "i8"), ("square %hundred", "i8"), ("add %hundred, %hundred", "i8"),
    ("sub %zero, %one", "u8"), ("neg %one", "u8"), ("square %many", "u8"), ("add %many, %many", "u8"),
    ("square %huge", "f32"), ("cast %huge {dtype = !f16}", "f16"), ("cast %huge {dtype = !f8e4m3}", "f8e4m3"),
    ("cast %many {dtype = !i8}", "i8"), ("cast %hundred {dtype = !u8}", "u8"),
])
def test_bounds_hold_for_what_torch_computes(line: str, result: str) -> None:
    wrapping = parse_graph(f"""
graph @g() -> ({result}[2]) {{
  %least = full {{value = -128, shape = [2], dtype = !i8}} : i8[2]
  %hundred = full {{value = 100, shape = [2], dtype = !i8}} : i8[2]
  %zero = full {{value = 0, shape = [2], dtype = !u8}} : u8[2]
  %one = full {{value = 1, shape = [2], dtype = !u8}} : u8[2]
  %many = full {{value = 200, shape = [2], dtype = !u8}} : u8[2]
  %huge = full {{value = 1e30, shape = [2], dtype = !f32}} : f32[2]
  %y = {line} : {result}[2]
  return %y
}}
""")
    known, computed = interval(wrapping.value("y")), run_graph(wrapping, [])[0].double()
    assert known is None or bool(((computed >= known[0]) & (computed <= known[1])).all())


@pytest.mark.parametrize(("number", "dtype", "never"), [
    (-1e-10, "f16", False), (-1e-50, "f32", False), (1e-50, "f32", True), (0.0, "f32", True), (-0.0, "f32", False),
])
def test_small_negative_numbers_may_be_negative_zeros_after_a_cast(number: float, dtype: str, never: bool) -> None:
    small = parse_graph(f"""
graph @g() -> ({dtype}[1]) {{
  %n = full {{value = {number!r}, shape = [1], dtype = !f64}} : f64[1]
  %y = cast %n {{dtype = !{dtype}}} : {dtype}[1]
  return %y
}}
""")
    assert never_negative_zero(small.value("y")) is never
    (computed,) = run_graph(small, [])
    assert not never or not bool(computed.signbit().any())
