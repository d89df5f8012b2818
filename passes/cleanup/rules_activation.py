"""Activations written out, back into one operator. Rounding: the operators compute the same formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from mcomp.ir.edit import Editor
from mcomp.ir.graph import Value
from mcomp.manager import PassEffect
from mcomp.passes.cleanup.rules_identity import keeps_type
from mcomp.rewrite import NO, Match, Miss, OpPattern, Pattern, Rule, either, number, op, rule, var
from mcomp.rewrite.facts import interval

_ROUNDING = PassEffect.ROUNDING
_CLOSE = 1e-5
"""Relative tolerance of the irrational constants in formulas."""
x = var("x")


def _near(value: float) -> Pattern:
    return number(value, tolerance=_CLOSE)


def _quotient(x: Pattern, y: Pattern) -> OpPattern:
    """x / y that is not rounded to a whole number."""
    return op("div", x, y, attrs={"rounding": "none"})


_half, _one, _two = number(0.5), number(1.0), number(2.0)


def _half_product(x: Pattern, gate: Pattern) -> tuple[OpPattern, ...]:
    """The ways to write 0.5 * x * gate."""
    return (
        op("mul", either(op("mul", x, _half), _quotient(x, _two)), gate),
        op("mul", x, either(op("mul", gate, _half), _quotient(gate, _two))),
        op("mul", op("mul", x, gate), _half),
        _quotient(op("mul", x, gate), _two),
    )


def _scaled(x: Pattern, factor: float) -> Pattern:
    return either(op("mul", x, _near(factor)), _quotient(x, _near(1 / factor)))


_square = either(op("square", x), op("pow", x, number(2.0)), op("mul", x, x))
_cube = either(op("pow", x, number(3.0)), op("mul", _square, x))
_cubic = _near(0.044715)
_root = _near(math.sqrt(2 / math.pi))
_one_plus_cubic = op("add", either(op("mul", _square, _cubic), op("mul", op("mul", x, _cubic), x)), _one)
_tanh_argument = either(
    op("mul", op("add", x, op("mul", _cube, _cubic)), _root),
    op("mul", op("mul", x, _one_plus_cubic), _root),
    op("mul", op("mul", x, _root), _one_plus_cubic),
)


def _rules(
    name: str, patterns: Iterable[OpPattern], rewrite: Callable[[Match, Editor], Value],
    check: Callable[[Match], Miss | None] = keeps_type,
) -> tuple[Rule, ...]:
    return tuple(Rule(name, p, rewrite, check, _ROUNDING) for p in patterns)


def _gelu(match: Match, editor: Editor) -> Value:
    """0.5 * x * (1 + erf(x / sqrt(2))) -> gelu(x)."""
    return match.add(editor, "gelu", [match["x"]])


def _gelu_tanh(match: Match, editor: Editor) -> Value:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) -> gelu(x) {approximate = "tanh"}."""
    return match.add(editor, "gelu", [match["x"]], {"approximate": "tanh"})


_GELU = _rules("gelu", _half_product(x, op("add", op("erf", _scaled(x, math.sqrt(0.5))), _one)), _gelu)
_GELU_TANH = _rules("gelu_tanh", _half_product(x, op("add", op("tanh", _tanh_argument), _one)), _gelu_tanh)


@rule("silu", op("mul", x, op("sigmoid", x)), effect=_ROUNDING)
def silu(match: Match, editor: Editor) -> Value:
    """x * sigmoid(x) -> silu(x)."""
    return match.add(editor, "silu", [match["x"]])


_one_plus_exp = op("add", op("exp", op("neg", x)), _one)


def _sigmoid(match: Match, editor: Editor) -> Value:
    """1 / (1 + exp(-x)) -> sigmoid(x)."""
    return match.add(editor, "sigmoid", [match["x"]])


_SIGMOID = _rules("sigmoid", (_quotient(_one, _one_plus_exp), op("reciprocal", _one_plus_exp)), _sigmoid)


def _idle_threshold(threshold: float) -> bool:
    """Whether softplus above a threshold is x itself but for rounding."""
    return threshold >= 20.0


_softplus = op("softplus", x, attrs={"beta": 1.0, "threshold": _idle_threshold})


@rule("mish", op("mul", x, op("tanh", _softplus)), effect=_ROUNDING)
def mish(match: Match, editor: Editor) -> Value:
    """x * tanh(softplus(x)) -> mish(x)."""
    return match.add(editor, "mish", [match["x"]])


@rule("square", op("pow", x, number(2.0)), check=keeps_type, effect=_ROUNDING)
def square(match: Match, editor: Editor) -> Value:
    """x ** 2 -> square(x)."""
    return match.add(editor, "square", [match["x"]])


def _not_negative(match: Match) -> Miss | None:
    if keeps_type(match) is not None:
        return NO
    known = interval(match["x"])
    if known is not None and known[0] > 0:
        return None
    if not _is_constant(match):
        return NO
    return Miss("a negative or zero base gives another result in a square root", "write sqrt, or make the base positive")


def _is_constant(match: Match) -> bool:
    return match["x"].is_const


def _root_of(match: Match, editor: Editor) -> Value:
    """x ** 0.5 -> sqrt(x); x ** -0.5 -> rsqrt(x), for x known to be above zero."""
    exponent = match.number("power")
    return match.add(editor, "sqrt" if exponent == 0.5 else "rsqrt", [match["x"]])


def _is_root(known: object) -> bool:
    return known in (0.5, -0.5)


_ROOTS = _rules("root", (op("pow", x, number("power", where=_is_root)),), _root_of, _not_negative)


def _same_axis(match: Match) -> Miss | None:
    axes = {n.attrs["axes"] for n in match.nodes if "axes" in n.attrs}
    single = len(axes) == 1 and len(next(iter(axes))) == 1
    kept = all(n.attrs["keepdim"] for n in match.nodes if "keepdim" in n.attrs)
    return None if single and kept and match["x"].type == match.root.type else NO


_shifted = op("exp", op("sub", x, op("amax", x, bind="amax")), bind="exp")


@rule("softmax", _quotient(_shifted, op("sum", _shifted, bind="sum")), check=_same_axis, effect=_ROUNDING)
def softmax(match: Match, editor: Editor) -> Value:
    """exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x)."""
    return match.add(editor, "softmax", [match["x"]], {"axis": match.node("sum").attrs["axes"][0]})


def _check_unshifted(match: Match) -> Miss | None:
    if _same_axis(match) is not None:
        return NO
    return Miss("without subtracting the maximum, large values give NaN, which softmax does not",
                "subtract the maximum along the axis first, or call softmax")


_plain_exp = op("exp", x, bind="exp")


@rule("softmax_unshifted", _quotient(_plain_exp, op("sum", _plain_exp, bind="sum")), check=_check_unshifted,
      effect=_ROUNDING)
def softmax_unshifted(match: Match, editor: Editor) -> Value:
    """exp(x) / sum(exp(x)): never rewritten, for it overflows where softmax does not."""
    return match.root.results[0]


ACTIVATION_RULES: tuple[Rule, ...] = (
    *_GELU, *_GELU_TANH, silu, *_SIGMOID, mish, square, *_ROOTS, softmax, softmax_unshifted,
)
