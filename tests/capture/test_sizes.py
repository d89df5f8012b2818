"""Which sizes become symbols."""

from __future__ import annotations

from typing import Any

import pytest

from mcomp.capture.sizes import batch_size, choose
from mcomp.errors import CaptureError, McompError
from mcomp.ir.dims import Bounds

SHAPES = [(2, 12), (2, 12), (4,)]
PATHS = [("ids",), ("cache", "layers", 0), ("position",)]


def names(dynamic: Any = None, others: Any = ()) -> dict[tuple[int, int], str]:
    return {place: size.name for place, size in choose(SHAPES, PATHS, dynamic, list(others)).items()}


def test_the_batch_is_symbolic_by_default() -> None:
    assert names() == {(0, 0): "B", (1, 0): "B"}
    assert batch_size([]) is None and batch_size([()]) is None


def test_sizes_that_vary_become_symbolic_and_equal_ones_share_a_name() -> None:
    found = names(others=[[(2, 9), (2, 9), (4,)], [(3, 5), (3, 5), (6,)]])
    assert found == {(0, 0): "B", (1, 0): "B", (0, 1): "S", (1, 1): "S", (2, 0): "T"}


def test_names_and_bounds_from_the_user() -> None:
    chosen = choose(SHAPES, PATHS, {"ids": {1: ("L", 1, 512), 0: None}, "cache": [1]}, [])
    assert {p: s.name for p, s in chosen.items()} == {(0, 1): "L", (1, 0): "B", (1, 1): "S"}
    assert chosen[0, 1].bounds == Bounds(1, 512)


def test_all_or_nothing() -> None:
    assert names(False) == {}
    assert len(names(True)) == 5


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"idz": {0: "B"}}, "idz"),
        ({"ids": {7: "B"}}, "axis 7"),
        ({"ids": {0: "not a name"}}, "cannot name"),
        ({"ids": {0: 3}}, "names no dimension"),
        ({"ids": {0: "größe"}}, "cannot name"),
        ({"ids": {0: "type"}}, "it means something in the IR"),
        ({"ids": {0: ("nan", 1, 4)}}, "it means something in the IR"),
        ({"ids": {0: ("S", -3, 4)}}, "S cannot go from -3 to 4"),
        ({"ids": {0: ("S", 5, 4)}}, "S cannot go from 5 to 4"),
        ({"ids": {0: ("S", "one", 4)}}, "S cannot go from one to 4"),
    ],
)
def test_wrong_requests_are_named(dynamic: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        choose(SHAPES, PATHS, dynamic, [])


def test_a_table_of_positions_bounds_the_length() -> None:
    import torch

    from mcomp.capture import capture

    class Positions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = torch.nn.Embedding(10, 4), torch.nn.Embedding(16, 4)
            self.register_buffer("ids", torch.arange(16)[None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.words(x) + self.places(self.ids[:, : x.shape[1]])

    model = Positions().eval()
    calls = [((torch.ones(1, 8, dtype=torch.long),), {}), ((torch.ones(3, 5, dtype=torch.long),), {})]
    program = capture(model, *calls[0], others=calls[1:]).program
    assert program is not None
    assert [str(d) for d in program.graph.inputs[0].tensor.shape] == ["B", "S"]
    assert program.graph.symbols["S"].high == 16


@pytest.mark.parametrize("oblivious", [True, False])
def test_no_size_is_below_zero(oblivious: bool) -> None:
    from types import SimpleNamespace

    import sympy

    from mcomp.capture.symbols import bounds_of

    ranges = SimpleNamespace(lower=sympy.Integer(-7), upper=sympy.Integer(9))
    assert bounds_of(ranges, oblivious) == Bounds(0 if oblivious else 2, 9)


def test_words_of_the_ir_name_no_size() -> None:
    """Every name that a size may have reads back as an attribute."""
    from mcomp.ir.dims import sym
    from mcomp.ir.printer import attr_text
    from mcomp.ir.terms import WORDS, TermReader

    for name in ("max", "min", "scalar", "graph", "e", "inf2", "_", "dense"):
        assert TermReader(attr_text((sym(name) + 1,))).attribute_value() == (sym(name) + 1,)
    for name in WORDS:
        with pytest.raises((McompError, AssertionError)):
            assert TermReader(attr_text((sym(name) + 1,))).attribute_value() == (sym(name) + 1,)
