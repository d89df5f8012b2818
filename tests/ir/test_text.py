"""Text of graphs: what a printed graph looks like, what reads back, and errors that point at the place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import McompError, ParseError
from mcomp.ir import Bounds, Graph, InputSpec, Loc, OutputSpec, TensorType, fused, graph_text, parse_graph, verify
from mcomp.ir.dtypes import f32
from mcomp.ir.parser import parse_type
from tests.strategies import graphs, locations

_MLP = """graph @mlp[B in 1..](%x: f32[B, 768]) -> (f32[B, 10]) {
  %w = const @fc1.weight#seed=1 : f32[3072, 768]
  %b = const @fc1.bias#splat=0.5 : f32[3072]
  %h = linear %x, %w, %b : f32[B, 3072]  loc(fc1 "model.py":12)
  %g = gelu %h {approximate = "tanh"} : f32[B, 3072]  loc(fuse[act, fc1 "model.py":12])
  %v = const @head#seed=2 : f32[10, 3072]
  %y = linear %g, %v, _ : f32[B, 10]
  return %y
}"""


def test_a_graph_reads_back_as_it_prints() -> None:
    graph = parse_graph(_MLP, generate=True)
    verify(graph)
    text = graph_text(graph, digests=32)
    assert graph_text(parse_graph(text, graph.store), digests=32) == text
    assert graph.value("h").producer is not None
    assert [n.layer for n in graph.nodes] == ["w", "b", "fc1", "act", "v", "y"]


def test_constants_are_found_by_a_prefix_of_their_digest() -> None:
    graph = parse_graph(_MLP, generate=True)
    assert str(parse_graph(str(graph), graph.store)) == str(graph)


def test_generated_constants_are_the_same_every_time() -> None:
    first, second = (parse_graph(_MLP, generate=True) for _ in range(2))
    assert str(first) == str(second)


def test_states_mutated_arguments_and_bounds_read_back() -> None:
    graph = Graph("with state")
    graph.symbols = {"B": Bounds(1, 8), "S": Bounds(2)}
    initial = graph.store.add(TensorType((4,), f32), np.arange(4, dtype=np.float32))
    x = graph.add_input("x", TensorType((4,), f32))
    state = graph.add_input("cache", TensorType((4,), f32), InputSpec("state", "layers.0.cache", initial.digest))
    with graph.edit() as e:
        total = e.add("add", [x, state]).result
    graph.set_outputs([total, total, x], [
        OutputSpec("result"), OutputSpec("state", "layers.0.cache"), OutputSpec("mutated", "x"),
    ])
    verify(graph)
    again = parse_graph(str(graph), graph.store)
    assert (again.input_specs, again.output_specs) == (graph.input_specs, graph.output_specs)
    assert again.symbols == graph.symbols
    assert str(again) == str(graph)


def test_nested_graphs_and_every_kind_of_attribute_read_back() -> None:
    text = """graph @outer[B in 0..](%p: bool[], %x: f32[B, 2]) -> (f32[B, 2], f32[2]) {
  %y = cond %p, %x {then = graph @then[B in 0..](%a: f32[B, 2]) -> (f32[B, 2]) {
      %r = relu %a : f32[B, 2]
      return %r
    }, else = graph @otherwise[B in 0..](%a: f32[B, 2]) -> (f32[B, 2]) {
      return %a
    }} : f32[B, 2]
  %n, %i = max_with_index %y {axis = 0} : f32[2], i64[2]
  %c = full {value = complex(1.0, -2.5), dtype = !complex64} : complex64[]
  %inf = full {value = -inf} : f32[]
  %nan = full {value = nan} : f32[]
  %o = aten.special_entr.default %y {args = ["$0", [1, 2.5, none, true], "a \\"quoted\\" text"], kwargs = []} : f32[B, 2]
  return %y, %n
}"""
    graph = parse_graph(text)
    assert str(graph) == text
    verify(graph)


@settings(deadline=None, max_examples=50)
@given(locations)
def test_locations_read_back(loc: Loc) -> None:
    graph = parse_graph("graph @g(%x: f32[2]) -> (f32[2]) {\n  %y = neg %x : f32[2]\n  return %y\n}")
    (node,) = graph.nodes
    with graph.edit() as e:
        e.set_loc(node, loc)
    (again,) = parse_graph(str(graph)).nodes
    assert again.loc == loc


def test_fused_locations_keep_their_leaves() -> None:
    a, b = Loc("fc1", "m.py", 3), Loc("act")
    both = fused("fuse", a, b, a, Loc())
    assert both.leaves == (a, b)
    assert fused("fuse", both, Loc("fc2")).parts == (a, b, Loc("fc2"))
    assert fused("quantize", both).paths == ("fc1", "act")
    assert fused("quantize", both).layer == "fc1"


_FAULTS = [
    ("%y = neg %z : f32[2]", "%z is not defined before its use", "%z"),
    ("%y = negg %x : f32[2]", "no operator is called negg; did you mean neg", "negg"),
    ("%y = neg %x {mode = 1} : f32[2]", "neg has no attribute mode", "neg"),
    ("%y = neg %x : f33[2]", "f33 is no element type", "f33"),
    ("%y = neg %x : f32[2", "expected `]`", "return"),
    ("%x = neg %x : f32[2]", "%x is defined twice", "%x = "),
    ("%y, %z = neg %x : f32[2]", "2 results but 1 types", "%y"),
    ("%y = sum %x {axes = [0, } : f32[]", "expected a size", "} :"),
    ("%y = pad %x {low = [0], high = [0], low = [0]} : f32[2]", "given twice", ": f32"),
    ("%y = const @w#00 : f32[2]", "no weight with digest 00", "#00"),
    ("%y = neg %x, %x : f32[2]", "neg takes 1 operands, not 2", "neg"),
    ("%y = add %x : f32[2]", "add lacks its operand `b`", "add"),
    ('%y = gelu %x {approximate = 1} : f32[2]', "attribute approximate is 1, not str", "gelu"),
    ("%y = neg %x : f32[2] affine<i8, size=1>", "affine has no field size", "size"),
    ("%y = neg %x : f32[2]  loc(a", "expected `)`", "return"),
]


@pytest.mark.parametrize(("line", "message", "place"), _FAULTS, ids=[f[1] for f in _FAULTS])
def test_errors_show_the_line_with_a_caret(line: str, message: str, place: str) -> None:
    text = f"graph @g(%x: f32[2]) -> (f32[2]) {{\n  {line}\n  return %y\n}}"
    with pytest.raises(ParseError) as raised:
        parse_graph(text)
    assert message in raised.value.message
    assert raised.value.ir is not None
    shown, caret = raised.value.ir.split("\n")
    assert shown in text.split("\n")
    assert shown[caret.index("^") :].lstrip().startswith(place)


def test_a_return_that_contradicts_the_header_is_an_error() -> None:
    with pytest.raises(ParseError, match="not what its header says"):
        parse_graph("graph @g(%x: f32[2]) -> (f32[3]) {\n  return %x\n}")


@settings(deadline=None, max_examples=120)
@given(graphs(max_steps=4), st.data())
def test_damaged_text_gives_an_error_or_a_graph(graph: Graph, data: st.DataObject) -> None:
    text = graph_text(graph, digests=32)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from((0, 1, 2, 9)))
        piece = data.draw(st.sampled_from((
            "", "-", "9", "%x", "[", "]", "{", "}", "(", ",", '"', "//0", "inf", "none", "B", " : ", "loc(", "!", "_",
            "affine<i4, group=2>", "nm<2, 4>", "blocksparse<2, 2, count=1>", "layout<1,0>", "99999999999999999999",
        )))
        text = text[:start] + piece + text[start + length :]
    try:
        verify(parse_graph(text, graph.store))
    except McompError as e:
        assert e.message


def test_a_type_reads_back_with_encoding_and_layout() -> None:
    for text in (
        "f32[B, 768]", "bf16[]", "f32[64, 128] affine<i4, group=32, zero_point=true>", "f32[8, 8] affine<i8, axis=0>",
        "bf16[8, 8] scaled<f8e4m3, axis=0>", "f16[2, 3, 8] scaled<f8e5m2, axis=[0, 1]>", "f32[8] scaled<f8e4m3, scale=0.5>",
        "f32[8, 8] affine<u8, scale=0.5, zero=128>", "f32[8, 8] nm<2, 4, affine<i8, axis=0>>",
        "f32[8, 8] blocksparse<4, 4, count=3>", "f32[8, 8] layout<1,0>", "f32[8, 16] layout<0,1; block=8>",
        "scalar<i64>", "f32[(S + 3)//4, max(4, S)]",
    ):
        assert str(parse_type(text)) == text
