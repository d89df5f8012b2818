"""What inference says about operands and attributes that do not fit: element-wise, shape, reduction, index operators."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import IRError
from mcomp.ir import Graph, TensorType, parse_graph, sym
from mcomp.ir.dtypes import DTYPES, bf16, bool_, complex64, f32, i4, i64
from mcomp.ir.parser import parse_type
from mcomp.ops import Tolerance, all_ops, op_named
from mcomp.ops.base import normalize
from tests.ops.cases import ALL_CASES
from tests.ops.suite import tensor_type

_X = "f32[B, 3, 4]"
_WRONG: list[tuple[str, tuple[str | None, ...], dict[str, Any], str]] = [
    ("exp", ("i64[B]",), {}, "operand is i64; accepted: f64, f32, f16, bf16, complex64"),
    ("add", ("f32[B]", "i64[B]"), {}, "different element types: f32, i64"),
    ("add", ("f32[B, 3]", "f32[B, 4]"), {}, r"shapes \[B, 3\] and \[B, 4\] do not broadcast"),
    ("add", ("f32[B]", "f32[B + 1]"), {}, "do not broadcast"),
    ("add", ("f32[2*B]", "f32[B]"), {}, "do not broadcast"),
    ("sub", ("bool[B]", "bool[B]"), {}, "operand is bool"),
    ("lt", ("complex64[B]", "complex64[B]"), {}, "operand is complex64"),
    ("logical_and", ("i64[B]", "i64[B]"), {}, "operand is i64; accepted: bool"),
    ("bitwise_or", ("f32[B]", "f32[B]"), {}, "operand is f32"),
    ("div", ("i64[B]", "i64[B]"), {}, "operand is i64"),
    ("div", ("f32[B]", "f32[B]"), {"rounding": "up"}, "rounding is 'up', not 'none' or 'floor' or 'trunc'"),
    ("where", ("f32[B]", "f32[B]", "f32[B]"), {}, "condition is f32; accepted: bool"),
    ("where", ("bool[B]", "f32[B]", "i64[B]"), {}, "different element types: f32, i64"),
    ("clamp", ("f32[B]", None, None), {}, "needs `low`, `high` or both"),
    ("cast", ("f32[B]",), {"dtype": i4}, "nothing can be cast to i4"),
    ("gelu", ("f32[B]",), {"approximate": "erf"}, "approximate is 'erf'"),
    ("prelu", (_X, "f32[5]"), {}, "weight and axis 1 of x: 5 and 3 differ"),
    ("view_as_complex", (_X,), {}, "the last axis of .* must be 2"),
    ("full", (), {"value": 1.5, "dtype": i64}, "1.5 does not fit i64"),
    ("full", (), {"value": 1j, "shape": (2,)}, "does not fit f32"),
    ("full", (), {"value": 1, "shape": (-1,)}, "has a negative size"),
    ("arange", (), {"length": -2}, "has a negative size"),
    ("arange", (), {"start": 0.5, "length": 3}, "start 0.5 does not fit i64"),
    ("randint", (), {"low": 3, "high": 3, "shape": ()}, r"no whole number is in \[3, 3\)"),
    ("multinomial", ("f32[B, 3]",), {"samples": 4}, "cannot draw 4 of 3 without replacement"),
    ("reshape", (_X,), {"shape": (sym("B"), 11)}, r"\[B, 3, 4\] has 12\*B elements, \[B, 11\] 11\*B"),
    ("reshape", ("f32[6]",), {"shape": (2, 4)}, "has 6 elements, .* 8"),
    ("permute", (_X,), {"order": (0, 1, 1)}, r"\[0, 1, 1\] is no order of 3 axes"),
    ("expand", (_X,), {"shape": (sym("B"), 3, 5)}, "does not stretch to"),
    ("expand", (_X,), {"shape": (3, 4)}, "does not stretch to"),
    ("slice", (_X,), {"axis": 1, "start": 0, "stop": 4}, "the slice 0:4 does not lie in 0:3"),
    ("slice", (_X,), {"axis": 1, "start": 2, "stop": 1}, "the slice 2:1"),
    ("slice", (_X,), {"axis": 0, "start": 0, "stop": sym("B") + 1}, r"the slice 0:B \+ 1 does not lie in 0:B"),
    ("slice", (_X,), {"axis": 1, "stop": 3, "step": 0}, "step 0 is not positive"),
    ("select", (_X,), {"axis": 2, "index": 4}, "index 4 is outside of axis 2"),
    ("squeeze", (_X,), {"axes": (1,)}, "axis 1 of .* is not 1"),
    ("unsqueeze", (_X,), {"axes": (4,)}, "axis 4 is outside of a tensor of rank 4"),
    ("unfold", (_X,), {"axis": 1, "size": 4}, "windows of 4, 1 apart, do not fit axis 1"),
    ("cat", (_X, "f32[B, 3, 5]"), {"axis": 1}, "axis 2 of the tensors to join along axis 1: 4 and 5 differ"),
    ("cat", (), {"axis": 0}, "nothing to join"),
    ("cat", (_X, "f32[B, 3]"), {"axis": 0}, "rank 3 and 2 do not join"),
    ("split", (_X,), {"axis": 1, "sizes": (1, 1)}, "sum of the sizes and axis 1"),
    ("flip", (_X,), {"axes": (1, 1)}, r"axes \[1, 1\] repeat"),
    ("roll", (_X,), {"shifts": (1,), "axes": (0, 1)}, "1 shifts for 2 axes"),
    ("repeat", (_X,), {"repeats": (2,)}, "1 repeats for rank 3"),
    ("pad", (_X,), {"low": (0, 0, 4), "high": (0, 0, 0), "mode": "reflect"}, r"reflect padding \(4, 0\) is too much"),
    ("pad", (_X,), {"low": (0, 0, -1), "high": (0, 0, 0)}, "low .* has a negative size"),
    ("pad", (_X,), {"low": (0,), "high": (0,)}, "1 low and 1 high sizes for rank 3"),
    ("diagonal", (_X,), {"axis1": 1, "axis2": 1}, "repeat"),
    ("im2col", ("f32[B, 3, 4, 4]",), {"kernel": (5, 1)}, "a kernel of 5 does not fit a size of 4"),
    ("col2im", ("f32[B, 7, 9]",), {"output": (4, 4), "kernel": (2, 2)}, r"2\*2 does not divide 7"),
    ("sum", (_X,), {"axes": ()}, "no axes of"),
    ("sum", (_X,), {"axes": (3,)}, "axis 3 is outside"),
    ("mean", ("i64[B]",), {"axes": (0,)}, "operand is i64"),
    ("all", ("f32[B]",), {"axes": (0,)}, "operand is f32; accepted: bool"),
    ("amax", ("f32[B, 0]",), {"axes": (1,)}, "amax of no elements"),
    ("argmax", ("f32[0]",), {}, "argmax of no elements"),
    ("cumsum", ("bool[B]",), {"axis": 0}, "operand is bool"),
    ("embedding", (_X, "i64[B]"), {}, "weight .* has rank 3, not 2"),
    ("embedding", ("f32[5, 4]", "f32[B]"), {}, "indices is f32; accepted: i64, i32"),
    ("gather", (_X, "i64[B, 4, 4]"), {"axis": 2}, "axis 1 of the indices .* exceeds"),
    ("gather", (_X, "i64[B, 4]"), {"axis": 1}, "indices .* has rank 2, not 3"),
    ("index", (_X, "i64[2]"), {"axes": (0, 1)}, "1 index tensors for the axes"),
    ("index", (_X, "bool[B]"), {"axes": (0,)}, "index is bool; accepted: i64, i32"),
    ("index", (_X, "i64[2]", "i64[3]"), {"axes": (0, 1)}, "do not broadcast"),
    ("index_put", (_X, "f32[5]", "i64[2]"), {"axes": (1,)}, "do not stretch to"),
    ("scatter", (_X, "i64[B, 1, 4]", "f32[B, 0, 4]"), {"axis": 1}, "exceed src"),
    ("scatter", (_X, "i64[B, 1, 4]", "f32[B, 1, 4]"), {"axis": 1, "reduce": "sum"}, "reduce is 'sum'"),
    ("slice_scatter", (_X, "f32[B, 2, 4]"), {"axis": 1, "stop": 3}, "slice and src"),
    ("select_scatter", (_X, "f32[B, 3]"), {"axis": 1, "index": 0}, "selected elements and src"),
    ("masked_scatter", (_X, "f32[4]", _X), {}, "mask is f32"),
    ("tril", ("f32[B]",), {}, "rank 1, less than 2"),
    ("searchsorted", ("f32[B, 4]", "f32[4]"), {}, "x .* has rank 1, not 2"),
    ("topk", (_X,), {"k": 4, "axis": 1}, "cannot take 4 of 3 elements"),
    ("irfft", ("complex64[B, 4]",), {"axis": 1, "length": 9}, "9 numbers need 5 terms, not 4"),
    ("rfft", ("f64[B]",), {"axis": 0}, "operand is f64; accepted: f32"),
    ("assert_", ("f32[B]",), {}, "operand is f32; accepted: bool"),
    ("item", ("i64[B]",), {"symbol": "u"}, "must have rank 0"),
]


@pytest.mark.parametrize(("op", "operands", "attrs", "words"), _WRONG, ids=[f"{w[0]}:{w[3][:40]}" for w in _WRONG])
def test_the_error_says_what_does_not_fit(
    op: str, operands: tuple[str | None, ...], attrs: dict[str, Any], words: str
) -> None:
    found = op_named(op)
    types = [None if t is None else tensor_type(t) for t in operands]
    with pytest.raises(IRError, match=words):
        found.infer(types, normalize(found, attrs))


def test_branches_must_fit_each_other_and_the_operands() -> None:
    def branch(size: int) -> Graph:
        return parse_graph(f"graph @b(%x: f32[{size}]) -> (f32[{size}]) {{\n  return %x\n}}")

    cond = op_named("cond")
    pred, x = TensorType((), bool_), TensorType((2,), f32)
    for types, then, other, words in (
        ((pred, x), branch(2), branch(3), "for the input %x: f32.3. of `else`"), ((pred,), branch(2), branch(2),
                                                                                  "0 operands"),
        ((x, x), branch(2), branch(2), "pred is f32"), ((TensorType((1,), bool_), x), branch(2), branch(2), "a scalar"),
    ):
        with pytest.raises(IRError, match=words):
            cond.infer(types, normalize(cond, {"then": then, "else": other}))


def _infer(op: str, *operands: str, **attrs: Any) -> str:
    found = op_named(op)
    return ", ".join(map(str, found.infer([parse_type(t) for t in operands], normalize(found, attrs))))


def test_sizes_stay_symbolic() -> None:
    b, s = sym("B"), sym("S")
    assert _infer("add", "f32[B, 1]", "f32[S]") == "f32[B, S]"
    assert _infer("add", "f32[B, S]", "f32[B, 8]") == "f32[B, 8]"
    assert _infer("reshape", "f32[B, 4*S]", shape=(b, s, 4)) == "f32[B, S, 4]"
    assert _infer("slice", "f32[S]", axis=0, start=1, stop=s, step=2) == "f32[(S)//2]"
    assert _infer("cat", "f32[S]", "f32[B]", "f32[1]", axis=0) == "f32[B + S + 1]"
    assert _infer("split", "f32[S + 2]", axis=0, sizes=(s, 2)) == "f32[S], f32[2]"
    assert _infer("pad", "f32[S]", low=(1,), high=(b,)) == "f32[B + S + 1]"
    assert _infer("unfold", "f32[S]", axis=0, size=4, step=2) == "f32[((S)//2) - 1, 4]"
    assert _infer("repeat", "f32[B, 3]", repeats=(2, s)) == "f32[2*B, 3*S]"
    assert _infer("index", "f32[B, S, 8]", "i64[T]", axes=(1,)) == "f32[B, T, 8]"
    assert _infer("index", "f32[B, S, 8]", "i64[T]", "i64[T]", axes=(0, 2)) == "f32[T, S]"
    assert _infer("topk", "f32[B, S]", k=s, axis=1) == "f32[B, S], i64[B, S]"
    assert _infer("rfft", "f32[S]", axis=0) == "complex64[((S)//2) + 1]"
    assert _infer("nonzero", "bool[B, S]", symbol="u") == "i64[u, 2]"


def test_costs_by_hand() -> None:
    def cost(op: str, *operands: str, **attrs: Any) -> tuple[Any, Any, Any]:
        found = op_named(op)
        types = [tensor_type(t) for t in operands]
        full = normalize(found, attrs)
        c = found.cost(types, [t for t in found.infer(types, full) if isinstance(t, TensorType)], full)
        return c.flops, c.read, c.write

    b = sym("B")
    assert cost("add", "f32[B, 4]", "f32[4]") == (4 * b, 16 * b + 16, 16 * b)
    assert cost("exp", "bf16[8]") == (80, 16, 16)
    assert cost("cast", "f32[8]", dtype=bf16) == (8, 32, 16)
    assert cost("eq", "f32[8]", "f32[8]") == (8, 64, 8)
    assert cost("sum", "f32[B, 4]", axes=(1,)) == (4 * b, 16 * b, 4 * b)
    assert cost("reshape", "f32[B, 4]", shape=(4 * b,)) == (0, 0, 0)
    assert cost("slice", "f32[8]", axis=0, stop=2) == (0, 0, 0)
    assert cost("cat", "f32[B]", "f32[B]", axis=0) == (0, 8 * b, 8 * b)
    assert cost("embedding", "f32[1000, 4]", "i64[B]") == (0, 24 * b, 16 * b)
    assert cost("full", value=1, shape=(8,)) == (0, 0, 32)


def test_tolerances_follow_the_work() -> None:
    tolerances = {name: op.tolerance for name, op in all_ops().items()}
    assert tolerances["neg"] is tolerances["maximum"] is tolerances["where"] is Tolerance.EXACT
    assert tolerances["add"] is tolerances["sum"] is Tolerance.ROUNDING
    assert tolerances["exp"] is tolerances["gelu"] is Tolerance.APPROXIMATE


_SHAPES = st.lists(st.sampled_from((0, 1, 2, 3, sym("B"), sym("B") + 1)), max_size=4).map(tuple)
_TYPES = st.builds(TensorType, _SHAPES, st.sampled_from((f32, i64, bool_, complex64, DTYPES["u8"], DTYPES["f8e4m3"])))


def _attribute(kind: str) -> st.SearchStrategy[Any]:
    """Values that fit an attribute's kind and need not make sense."""
    if kind.endswith("?"):
        return st.one_of(st.none(), _attribute(kind[:-1]))
    if kind.endswith("[]"):
        return st.lists(_attribute(kind[:-2]), max_size=4).map(tuple)
    small = st.integers(-2, 5)
    return {
        "int": small, "float": st.floats(), "bool": st.booleans(),
        "str": st.sampled_from(("", "none", "constant", "u", "backward", "linear")),
        "dtype": st.sampled_from(list(DTYPES.values())), "dim": st.one_of(small, st.just(sym("B"))),
        "number": st.one_of(small, st.floats(), st.booleans()),
        "any": st.one_of(st.none(), small, st.just((1, 1)), st.just(((0, 0), (1, 1)))),
    }[kind]


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_nonsense_is_an_error_of_ours_or_infers(data: st.DataObject) -> None:
    """Files are not to be trusted: whatever types and attributes they hold, inference ends in types or in an IRError."""
    names = sorted(n for n, op in all_ops().items() if not any(a.kind == "graph" for a in op.attrs) and n != "const")
    op = op_named(data.draw(st.sampled_from(names)))
    near = [c for c in ALL_CASES if c.op == op.name]
    attrs = {a.name: data.draw(_attribute(a.kind)) for a in op.attrs}
    if near and data.draw(st.booleans()):
        attrs = {**attrs, **data.draw(st.sampled_from(near)).attrs}
    count = data.draw(st.integers(len([o for o in op.operands if not o.optional and not o.variadic]), 4))
    types: list[Any] = [data.draw(_TYPES) for _ in range(count)]
    if not (op.operands and op.operands[-1].variadic):
        types = types[: len(op.operands)]
    try:
        inferred = op.infer(types, normalize(op, attrs))
    except IRError as e:
        assert e.message
        return
    assert isinstance(inferred, tuple)
