"""Comparing two versions of a graph."""

import math

import pytest
import torch

from mcomp.commands.compare import _decibel
from mcomp.errors import CallError
from mcomp.ir import Graph, parse_graph
from mcomp.runtime.compare import Difference, compare_graphs


def returning(types: str, returned: str) -> Graph:
    return parse_graph(f"""graph @g(%x: f32[2, 3]) -> ({types}) {{
  %y = neg %x : f32[2, 3]
  %t = permute %y {{order = [1, 0]}} : f32[3, 2]
  %i = cast %y {{dtype = !i64}} : i64[2, 3]
  return {returned}
}}""")


@pytest.mark.parametrize(("types", "returned", "error"), [
    ("f32[2, 3]", "%y", 0.0), ("f32[3, 2]", "%t", math.inf), ("i64[2, 3]", "%i", math.inf),
])
def test_outputs_of_another_shape_or_kind_differ(types: str, returned: str, error: float) -> None:
    rows = compare_graphs(returning("f32[2, 3]", "%y"), returning(types, returned), [torch.full((2, 3), 0.5)])
    assert [r.error for r in rows if r.layer == "(output)"] == [error]


def test_another_number_of_outputs_is_not_comparable() -> None:
    with pytest.raises(CallError, match=r"the graphs return 1 and 2 outputs.*\n.*help: give two versions"):
        compare_graphs(returning("f32[2, 3]", "%y"), returning("f32[2, 3], f32[3, 2]", "%y, %t"), [torch.ones(2, 3)])
    more = parse_graph("graph @g(%x: f32[2, 3], %z: f32[2]) -> (f32[2, 3]) {\n  return %x\n}")
    with pytest.raises(CallError, match=r"the graphs take 2 and 1 inputs.*\n.*help: give two versions"):
        compare_graphs(more, returning("f32[2, 3]", "%y"), [torch.ones(2, 3)])


def test_an_infinite_error_is_not_called_equal() -> None:
    assert _decibel(Difference("", "y", 0.0).snr_db) == "equal"
    assert _decibel(Difference("", "y", 0.1).snr_db) == "20.0 dB"
    assert _decibel(Difference("", "y", math.inf).snr_db) == "-"
