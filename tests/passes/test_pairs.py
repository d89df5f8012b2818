"""Which products in a row `fuse` makes one node of."""

from __future__ import annotations

import pytest

from mcomp.ir import Graph, verify
from mcomp.manager import PassManager
from tests.cpu.backend_harness import graph_of

FACTORS = """graph @factors[B in 1..](%x: f32[B, 32], %z: f32[B, 16]) -> (f32[B, 16]) {
  %v = const @v#seed=1 : f32[8, 32]
  %u = const @u#seed=2 : f32[16, 8]
  %h = linear %x, %v : f32[B, 8]
  %y = linear %h, %u : f32[B, 16]
  %a = add %y, %z : f32[B, 16]
  return %a
}"""

BYTES = """graph @bytes[B in 1..](%x: f32[B, 32]) -> (f32[B, 16]) {
  %v = const @v#int8 : f32[8, 32] affine<i8, axis=0>
  %u = const @u#int8 : f32[16, 8] affine<i8, axis=0>
  %q = quantize %x {dtype=!u8, scale=0.1, zero=128} : f32[B, 32] affine<u8, scale=0.1, zero=128>
  %h = linear %q, %v : f32[B, 8]
  %p = quantize %h {dtype=!u8, scale=0.1, zero=128} : f32[B, 8] affine<u8, scale=0.1, zero=128>
  %y = linear %p, %u : f32[B, 16]
  return %y
}"""

CONVOLUTIONS = """graph @convolutions[B in 1..](%x: f32[B, 32, 4, 4]) -> (f32[B, 16, 4, 4]) {
  %v = const @v#seed=1 : f32[8, 32, 1, 1]
  %u = const @u#seed=2 : f32[16, 8, 1, 1]
  %h = conv %x, %v {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 8, 4, 4]
  %y = conv %h, %u {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 16, 4, 4]
  return %y
}"""


def regions(graph: Graph, pipeline: str = "fuse") -> list[tuple[str, list[str]]]:
    """Kinds and operators of the fused nodes; names of the other operators, without any."""
    PassManager(pipeline).run(graph)
    verify(graph)
    return [
        (n.attrs["kind"], [m.op.name for m in n.attrs["body"].nodes]) if n.bodies else (n.op.name, [])
        for n in graph.nodes if n.op.name != "const"
    ]


def test_factors_are_one_region_with_their_epilogue() -> None:
    assert regions(graph_of(FACTORS)) == [("pair", ["linear", "linear", "add"])]
    assert regions(graph_of(BYTES)) == [("quantize", []), ("pair", ["linear", "quantize", "linear"])]
    assert regions(graph_of(CONVOLUTIONS)) == [("pair", ["conv", "conv"])]


def test_options_leave_pairs_or_epilogues_alone() -> None:
    assert regions(graph_of(FACTORS), "fuse{pairs=false}") == [("linear", []), ("epilogue", ["linear", "add"])]
    assert regions(graph_of(FACTORS), "fuse{epilogues=false}") == [("pair", ["linear", "linear"]), ("add", [])]


_STATIC = "{dtype=!u8, scale=0.1, zero=128} : f32[B, 8] affine<u8, scale=0.1, zero=128>"
_CHANGES = {
    "a wide middle": (FACTORS, {"[8, 32]": "[16, 32]", "[16, 8]": "[16, 16]", "[B, 8]": "[B, 16]"}),
    "a middle that is a result": (FACTORS, {"-> (f32[B, 16])": "-> (f32[B, 16], f32[B, 8])", "return %a": "return %a, %h"}),
    "a middle read twice": (FACTORS, {"  %a = add %y, %z": "  %e = linear %h, %u : f32[B, 16]\n  %a = add %y, %e"}),
    "a computed weight": (FACTORS, {"  %u = const @u#seed=2": "  %t = const @t#seed=2 : f32[16, 8]\n  %u = tanh %t"}),
    "something between": (BYTES, {f"%p = quantize %h {_STATIC}": "%p = relu %h : f32[B, 8]"}),
    "bytes, then floats": (BYTES, {"u#int8 : f32[16, 8] affine<i8, axis=0>": "u#seed=2 : f32[16, 8]"}),
    "one scale from all of the middle": (BYTES, {_STATIC: "{dtype=!u8, axis=[], zero_point=true} : "
                                                          "f32[B, 8] affine<u8, zero_point=true>"}),
    "groups": (CONVOLUTIONS, {"[16, 8, 1, 1]": "[16, 4, 1, 1]", "groups=1} : f32[B, 16": "groups=2} : f32[B, 16"}),
    "a stride": (CONVOLUTIONS, {"stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 16, 4, 4]":
                                "stride=[2,2], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 16, 2, 2]",
                                "(f32[B, 16, 4, 4])": "(f32[B, 16, 2, 2])"}),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_other_products_in_a_row_stay_apart(name: str) -> None:
    text, changes = _CHANGES[name]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    assert not any(kind == "pair" for kind, _ in regions(graph_of(text)))
