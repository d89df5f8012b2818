"""Symbolic sizes: the canonical form against plain arithmetic, and text."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.ir import Bounds, dims, sym
from mcomp.ir.dims import Dim
from mcomp.ir.parser import parse_dim
from tests.strategies import SYMBOLS, random_dims

B, S = sym("B"), sym("S")
_VALUES = st.fixed_dictionaries({name: st.integers(0, 40) for name in SYMBOLS})
Formula = Callable[[Mapping[str, int]], int]


@settings(deadline=None)
@given(random_dims(), _VALUES)
def test_the_canonical_form_has_the_value_of_the_formula(pair: tuple[Dim, Formula], values: dict[str, int]) -> None:
    size, formula = pair
    assert dims.evaluate(size, values) == formula(values)


@settings(deadline=None)
@given(random_dims(), random_dims(), _VALUES)
def test_equal_forms_are_equal_functions(
    a: tuple[Dim, Formula], b: tuple[Dim, Formula], values: dict[str, int]
) -> None:
    if a[0] == b[0]:
        assert hash(a[0]) == hash(b[0])
        assert a[1](values) == b[1](values)


@settings(deadline=None)
@given(random_dims())
def test_text_reads_back(pair: tuple[Dim, Formula]) -> None:
    assert parse_dim(str(pair[0])) == pair[0]


@settings(deadline=None)
@given(random_dims(), _VALUES)
def test_substituting_all_symbols_evaluates(pair: tuple[Dim, Formula], values: dict[str, int]) -> None:
    assert dims.substitute(pair[0], values) == pair[1](values)


@settings(deadline=None)
@given(random_dims(), _VALUES)
def test_substituting_one_symbol_leaves_the_other(pair: tuple[Dim, Formula], values: dict[str, int]) -> None:
    partly = dims.substitute(pair[0], {"B": dims.add(dims.mul(S, 2), 1)})
    assert dims.symbols(partly) <= {"S"}
    assert dims.evaluate(partly, values) == pair[1]({**values, "B": 2 * values["S"] + 1})


@settings(deadline=None)
@given(random_dims(), _VALUES)
def test_solving_finds_the_symbol(pair: tuple[Dim, Formula], values: dict[str, int]) -> None:
    size, formula = pair
    solved = dims.solve(size, formula(values), {"S": values["S"]})
    assert solved is None or solved == ("B", values["B"])


def test_polynomials_have_one_form() -> None:
    assert B * S + S * B == 2 * B * S
    assert (B + 1) * (B - 1) == B * B - 1
    assert B - B == 0 and type(B - B) is int
    assert (4 * B + 8) // 4 == B + 2
    assert (6 * B * S) // (2 * S) == 3 * B
    assert (8 * B + 3) % 4 == 3
    assert dims.ceildiv(B * 4, 4) == B
    assert dims.maximum(B + 1, B) == B + 1 and dims.minimum(B + 1, B) == B
    assert dims.maximum(B, S) == dims.maximum(S, B)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (B, "B"), (B + 1, "B + 1"), (-B + 3, "-B + 3"), ((S + 3) // 4, "(S + 3)//4"), (2 * B * B, "2*B*B"),
        ((S // 2) * 3 + 1, "3*((S)//2) + 1"), (S % 4, "(S)%4"), (dims.maximum(S, 4), "max(4, S)"),
    ],
)
def test_text(size: Dim, text: str) -> None:
    assert str(size) == text
    assert parse_dim(text) == size


def test_dividing_by_zero_raises() -> None:
    for function in (dims.floordiv, dims.mod):
        with pytest.raises(ZeroDivisionError):
            function(B, 0)


def test_solving_without_a_whole_solution_raises() -> None:
    with pytest.raises(ValueError, match="no whole-number solution"):
        dims.solve(2 * B, 7, {})
    assert dims.solve(B * S, 12, {"S": 4}) == ("B", 3)
    assert dims.solve(B * S, 12, {}) is None
    assert dims.solve(B // 2, 3, {}) is None


def test_sizes_are_immutable_and_pickle() -> None:
    with pytest.raises(AttributeError):
        B.terms = ()
    assert pickle.loads(pickle.dumps((S + 3) // 4)) == (S + 3) // 4


def test_bounds_print_as_ranges() -> None:
    assert (str(Bounds(1)), str(Bounds(1, 8))) == ("1..", "1..8")
