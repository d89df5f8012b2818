"""Element-wise identities that hold bit for bit, NaN, infinities and signed zeros included; casts; what only training
needs."""

from __future__ import annotations

import math

from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Value
from mcomp.rewrite import NO, Match, Miss, Rule, number, op, rule, var
from mcomp.rewrite.facts import Number, never_negative_zero, number_of, zero_sign_matters

x = var("x")


def keeps_type(match: Match) -> Miss | None:
    """x can stand for the root only with the same type: no broadcasting."""
    return None if match["x"].type == match.root.type else NO




def _is_one(known: Number) -> bool:
    return known == 1 and not isinstance(known, complex)


@rule("mul_one", op("mul", x, number("one", where=_is_one)), check=keeps_type)
def mul_one(match: Match, editor: Editor) -> Value:
    """x * 1 -> x."""
    return match["x"]


def _exact_quotient(match: Match) -> Miss | None:
    whole = match["x"].tensor.dtype.is_int
    return keeps_type(match) if whole or match.root.attrs["rounding"] == "none" else NO


@rule("div_one", op("div", x, number("one", where=_is_one)), check=_exact_quotient)
def div_one(match: Match, editor: Editor) -> Value:
    """x / 1 -> x; floats only without rounding of the quotient."""
    return match["x"]


def _is_zero(known: Number) -> bool:
    return known == 0 and not isinstance(known, complex)


def _check_add_zero(match: Match) -> Miss | None:
    if keeps_type(match) is not None:
        return NO
    value, zero = match["x"], match.number("zero")
    assert not isinstance(zero, complex)
    added = math.copysign(1.0, zero) if match.root.op.name == "add" else -math.copysign(1.0, zero)
    if not value.tensor.dtype.is_float:
        return NO if value.tensor.dtype.is_complex else None
    if added < 0 or never_negative_zero(value) or not zero_sign_matters(match.root.results[0]):
        return None
    if any(v is not None and v.is_const for v in match.root.operands):
        return NO
    return Miss(f"%{value.name} may hold -0.0, which + 0.0 makes 0.0", "leave the addition out of the model")


@rule("add_zero", op("add|sub", x, number("zero", where=_is_zero)), check=_check_add_zero)
def add_zero(match: Match, editor: Editor) -> Value:
    """x + 0 -> x, where x holds no -0.0 or no user can tell it from 0.0; x - 0.0 and x + -0.0 always."""
    return match["x"]


def _first_power(known: Number) -> bool:
    return known == 1 and not isinstance(known, complex)


@rule("pow_one", op("pow", x, number("one", where=_first_power)), check=keeps_type)
def pow_one(match: Match, editor: Editor) -> Value:
    """x ** 1 -> x."""
    return match["x"]


@rule("double_neg", op("neg", op("neg", x)))
def double_neg(match: Match, editor: Editor) -> Value:
    """-(-x) -> x."""
    return match["x"]


@rule("double_not", op("logical_not|bitwise_not", op("logical_not|bitwise_not", x)))
def double_not(match: Match, editor: Editor) -> Value:
    """not not x -> x."""
    return match["x"]


def _check_bool(match: Match) -> Miss | None:
    return keeps_type(match) if match["x"].tensor.dtype.kind == "bool" else NO


def _check_and(match: Match) -> Miss | None:
    return None if match["x"].tensor.dtype.kind == match.root.type.dtype.kind == "bool" else NO


@rule("and_true", op("logical_and|bitwise_and", x, number(1)), check=_check_and)
def and_true(match: Match, editor: Editor) -> Value:
    """x and true -> x, or an expand of it, for bool."""
    if match["x"].type == match.root.type:
        return match["x"]
    return match.add(editor, "expand", [match["x"]], {"shape": match.root.type.shape})


@rule("or_false", op("logical_or|bitwise_or", x, number(0)), check=_check_bool)
def or_false(match: Match, editor: Editor) -> Value:
    """x or false -> x, for bool."""
    return match["x"]


@rule("same_operands", op("logical_and|bitwise_and|logical_or|bitwise_or|maximum|minimum", x, x), check=keeps_type)
def same_operands(match: Match, editor: Editor) -> Value:
    """x and x, x or x, max(x, x), min(x, x) -> x."""
    return match["x"]


def _check_where(match: Match) -> Miss | None:
    chosen = match["a"] if match.number("c") else match["b"]
    return None if chosen.type == match.root.type else NO


@rule("where_known", op("where", number("c"), var("a"), var("b")), check=_check_where)
def where_known(match: Match, editor: Editor) -> Value:
    """where(true, a, b) -> a; where(false, a, b) -> b."""
    return match["a"] if match.number("c") else match["b"]


@rule("where_same", op("where", var("c"), x, x), check=keeps_type)
def where_same(match: Match, editor: Editor) -> Value:
    """where(c, x, x) -> x."""
    return match["x"]


def _idle_bound(value: Value | None, limit: float) -> bool:
    """Whether a bound of `clamp` changes nothing: it is the infinity beyond which nothing lies."""
    known = None if value is None else number_of(value)
    return isinstance(known, float) and known == limit


def _check_clamp(match: Match) -> Miss | None:
    node = match.root
    idle = _idle_bound(node.maybe(1), -math.inf) or _idle_bound(node.maybe(2), math.inf)
    return keeps_type(match) if idle else NO


@rule("clamp_infinite", op("clamp", x, rest=True), check=_check_clamp)
def clamp_infinite(match: Match, editor: Editor) -> Value:
    """clamp(x, low, inf) -> clamp(x, low); without bounds left, x."""
    node = match.root
    low = None if _idle_bound(node.maybe(1), -math.inf) else node.maybe(1)
    high = None if _idle_bound(node.maybe(2), math.inf) else node.maybe(2)
    if low is None and high is None:
        return match["x"]
    return match.add(editor, "clamp", [match["x"], low, high])


_LOSSLESS: dict[str, tuple[str, ...]] = {
    "bool": ("u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"),
    "u8": ("i16", "i32", "i64", "f16", "bf16", "f32", "f64"),
    "i8": ("i16", "i32", "i64", "f16", "bf16", "f32", "f64"),
    "i16": ("i32", "i64", "f32", "f64"),
    "i32": ("i64", "f64"),
    "f8e4m3": ("f16", "bf16", "f32", "f64"),
    "f8e5m2": ("f16", "bf16", "f32", "f64"),
    "f16": ("f32", "f64", "complex64"),
    "bf16": ("f32", "f64", "complex64"),
    "f32": ("f64", "complex64"),
}


def lossless(source: DType, target: DType) -> bool:
    """Whether every number of one element type is one of another."""
    return source == target or target.name in _LOSSLESS.get(source.name, ())


@rule("cast_same", op("cast", x), check=keeps_type)
def cast_same(match: Match, editor: Editor) -> Value:
    """A cast to the type that x has -> x."""
    return match["x"]


def _check_cast_chain(match: Match) -> Miss | None:
    source, between = match["x"].tensor.dtype, match.nodes[1].type.dtype
    return None if lossless(source, between) and not (between.is_complex and match.root.type.dtype.is_complex) else NO


@rule("cast_chain", op("cast", op("cast", x)), check=_check_cast_chain)
def cast_chain(match: Match, editor: Editor) -> Value:
    """cast(cast(x)) -> cast(x), or x, where the inner cast loses nothing."""
    target = match.root.type.dtype
    if target == match["x"].tensor.dtype:
        return match["x"]
    return match.add(editor, "cast", [match["x"]], {"dtype": target})


def _check_bool_test(match: Match) -> Miss | None:
    return None if match["x"].tensor.dtype == dtypes.bool_ and match["x"].tensor.shape == match.root.type.shape else NO


@rule("bool_test", op("ne", op("cast", x), number("zero", where=_is_zero)), check=_check_bool_test)
def bool_test(match: Match, editor: Editor) -> Value:
    """cast(x) != 0 -> x, for a bool x."""
    return match["x"]


@rule("drop_dropout", op("dropout", x))
def drop_dropout(match: Match, editor: Editor) -> Value:
    """dropout(x) -> x: nothing is dropped outside of training."""
    return match["x"]


@rule("drop_assert", op("assert_", x))
def drop_assert(match: Match, editor: Editor) -> None:
    """An assertion goes; with it what only it needed."""
    match.context.remark(
        "warning", "simplify.drop_assert", match.root, f"dropped: {match.root.attrs['message'] or 'an assertion'}"
    )
    editor.erase(match.root)




IDENTITY_RULES: tuple[Rule, ...] = (
    mul_one, div_one, add_zero, pow_one, double_neg, double_not, and_true, or_false, same_operands, where_known,
    where_same, clamp_infinite, cast_same, cast_chain, bool_test, drop_dropout, drop_assert,
)
