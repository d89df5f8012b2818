"""Folding products and sums with numbers in a row."""

from __future__ import annotations

import math

from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType
from mcomp.manager import PassEffect
from mcomp.rewrite import NO, Match, Miss, number, op, rule, var
from mcomp.rewrite.facts import Number, as_held, smallest_normal

_ROUNDING = PassEffect.ROUNDING
_MODERATE = {"f16": 0.1}
_MODERATE_DEFAULT = 1e-6
"""A factor below this may take results out of the range of normal numbers before the next factor takes them back; of f16,
whose range is narrow, another one."""


def _real(known: Number) -> bool:
    return isinstance(known, float) and math.isfinite(known) and known != 0


def _plain(node: Node) -> bool:
    return node.attrs.get("rounding", "none") == "none"


def _inner(node: Node) -> bool:
    return _plain(node) and len(node.results[0].uses) == 1


def _scale(node: Node, known: Number) -> float:
    assert isinstance(known, float)
    return 1.0 / known if node.op.name == "div" else known


def _shift(node: Node, known: Number) -> float:
    assert isinstance(known, float)
    return -known if node.op.name == "sub" else known


def full(match: Match, editor: Editor, value: Number, like: TensorType) -> Value:
    """A number as a tensor of rank 0 of another tensor's element type."""
    return match.add(editor, "full", [], {"value": value, "shape": (), "dtype": like.dtype})


def _check_scales(match: Match) -> Miss | None:
    if match["x"].type != match.root.type:
        return NO
    outer, inner = match.nodes[0], match.nodes[1]
    a, b = _scale(inner, match.number("a")), _scale(outer, match.number("b"))
    dtype = match.root.type.dtype
    product = as_held(a * b, dtype)
    assert isinstance(product, float)
    if not math.isfinite(product) or abs(product) < smallest_normal(dtype):
        return Miss(f"{a} * {b} does not fit {dtype}", "multiply once, by a number that fits")
    if abs(a) > 1 > abs(b):
        return Miss(f"x * {a} may overflow where x * {product} does not", "multiply by the smaller number first")
    if abs(a) < _MODERATE.get(dtype.name, _MODERATE_DEFAULT) and abs(b) > 1:
        return Miss(f"x * {a} may vanish where x * {product} does not", "multiply by the larger number first")
    return None


@rule("merge_scales", op("mul|div", op("mul|div", var("x"), number("a", where=_real), where=_inner),
                         number("b", where=_real), where=_plain), check=_check_scales, effect=_ROUNDING)
def merge_scales(match: Match, editor: Editor) -> Value:
    """(x * a) * b -> x * (a * b); quotients likewise."""
    outer, inner = match.nodes[0], match.nodes[1]
    product = _scale(inner, match.number("a")) * _scale(outer, match.number("b"))
    x = match["x"]
    return match.add(editor, "mul", [x, full(match, editor, product, x.tensor)])


def _check_shifts(match: Match) -> Miss | None:
    if match["x"].type != match.root.type:
        return NO
    outer, inner = match.nodes[0], match.nodes[1]
    a, b = _shift(inner, match.number("a")), _shift(outer, match.number("b"))
    if (a > 0) != (b > 0):
        return Miss(f"adding {a}, then {b} rounds more than adding {a + b}", "add one number")
    total = as_held(a + b, match.root.type.dtype)
    return None if isinstance(total, float) and math.isfinite(total) else Miss(f"{a} + {b} overflows", "add smaller numbers")


@rule("merge_shifts", op("add|sub", op("add|sub", var("x"), number("a", where=_real), where=_inner),
                         number("b", where=_real), where=_plain), check=_check_shifts, effect=_ROUNDING)
def merge_shifts(match: Match, editor: Editor) -> Value:
    """(x + a) + b -> x + (a + b) for numbers of one sign; differences likewise."""
    outer, inner = match.nodes[0], match.nodes[1]
    total = _shift(inner, match.number("a")) + _shift(outer, match.number("b"))
    x = match["x"]
    return match.add(editor, "add", [x, full(match, editor, total, x.tensor)])


NUMBER_RULES = (merge_scales, merge_shifts)
