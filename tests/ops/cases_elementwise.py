"""Cases of element-wise operators, with formulas in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from mcomp.ir.dtypes import bf16, bool_, complex64, f8e4m3, f16, f32, f64, i8, i32, i64, u8
from tests.ops.suite import Case, between, whole

Formula = Callable[..., Any]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return special.expit(x)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(x), np.nan, x * special.ndtr(x))


def _limited(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.where(np.isnan(x), x, np.clip(x, low, high))


_UNARY: dict[str, Formula] = {
    "neg": np.negative, "abs": np.abs, "sign": lambda x: np.where(np.isnan(x), 0, np.sign(x)), "floor": np.floor,
    "ceil": np.ceil, "trunc": np.trunc, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x, "square": lambda x: x * x, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "sigmoid": _sigmoid, "erf": special.erf, "erfc": special.erfc, "isnan": np.isnan,
    "isinf": np.isinf, "isfinite": np.isfinite, "angle": lambda x: np.where(np.isnan(x), x, np.where(x < 0, np.pi, 0)),
    "relu": lambda x: np.where(np.isnan(x), x, np.maximum(x, 0)), "relu6": lambda x: _limited(x, 0, 6),
    "silu": lambda x: x * _sigmoid(x), "mish": lambda x: x * np.tanh(_softplus(x)),
    "softplus": lambda x, beta, threshold: _softplus(x),
    "gelu": lambda x, approximate: _gelu(x), "hardswish": lambda x: x * _limited(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: _limited(x + 3, 0, 6) / 6, "log_sigmoid": special.log_expit,
    "hardtanh": lambda x, min, max: _limited(x, min, max),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, alpha, scale, input_scale: scale * np.where(x > 0, x, alpha * np.expm1(input_scale * x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "celu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x / alpha)),
    "tanhshrink": lambda x: x - np.tanh(x), "softsign": lambda x: x / (1 + np.abs(x)),
    "softshrink": lambda x, lambd: np.where(np.abs(x) <= lambd, 0, x - np.sign(x) * lambd),
    "hardshrink": lambda x, lambd: np.where(np.abs(x) <= lambd, 0, x),
}
_BOUNDED: dict[str, tuple[Formula, float, float]] = {
    "sin": (np.sin, -50, 50), "cos": (np.cos, -50, 50), "tan": (np.tan, -1.5, 1.5),
    "erfinv": (special.erfinv, -0.99, 0.99),
    "lgamma": (special.gammaln, 0.1, 30), "digamma": (special.digamma, 0.1, 30), "asin": (np.arcsin, -1, 1),
    "acos": (np.arccos, -1, 1), "atanh": (np.arctanh, -0.99, 0.99), "acosh": (np.arccosh, 1, 30),
    "log": (np.log, 0.01, 100), "log1p": (np.log1p, -0.9, 10), "sqrt": (np.sqrt, 0, 100),
}
_ODD_TRIGONOMETRY = ("sin", "cos", "tan", "erfinv")


def _unary_cases() -> list[Case]:
    cases = [
        Case(op, ("f32[B, S]",), expect=lambda x, f=f, **a: f(x, **a), label="" if op != "hardtanh" else "default")
        for op, f in _UNARY.items()
    ]
    cases += [
        Case(op, ("f32[S]",), fills={0: between(low, high)}, expect=lambda x, f=f: f(x), label="in-domain")
        for op, (f, low, high) in _BOUNDED.items()
    ]
    cases += [Case(op, ("f32[B, S]",), label="odd") for op in _ODD_TRIGONOMETRY]
    cases += [
        Case("frac", ("f32[B, S]",), expect=lambda x: np.where(np.isinf(x), np.nan, x - np.trunc(x))),
        Case("round", ("f32[B, S]",), expect=lambda x, decimals: np.rint(x)),
        Case("round", ("f32[B, S]",), {"decimals": 2}, label="decimals", special=False,
             expect=lambda x, decimals: np.round(x, decimals)),
        Case("gelu", ("f32[B, S]",), {"approximate": "tanh"}, label="tanh",
             expect=lambda x, approximate: np.where(
                 np.isneginf(x), np.nan, 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
             special=False),
        Case("hardtanh", ("f32[B, S]",), {"min": -2.0, "max": 0.5}, label="limits", expect=_UNARY["hardtanh"]),
        Case("softplus", ("f32[S]",), {"beta": 2.0, "threshold": 3.0}, label="beta",
             expect=lambda x, beta, threshold: np.where(
                 x * beta > threshold, x, np.log1p(np.exp(np.minimum(x * beta, 50))) / beta)),
        Case("leaky_relu", ("f32[B, S]",), {"slope": 0.3}, label="slope", expect=_UNARY["leaky_relu"]),
        Case("elu", ("f32[B, S]",), {"alpha": 0.5, "scale": 2.0, "input_scale": 1.5}, label="scales",
             expect=_UNARY["elu"]),
        Case("celu", ("f32[B, S]",), {"alpha": 0.5}, label="alpha", expect=_UNARY["celu"]),
        Case("threshold", ("f32[B, S]",), {"threshold": 0.5, "value": 7.0},
             expect=lambda x, threshold, value: np.where(np.isnan(x) | (x > threshold), x, value)),
        Case("logical_not", ("bool[B, S]",), expect=np.logical_not),
        Case("bitwise_not", ("i32[B, S]",), expect=np.invert), Case("bitwise_not", ("bool[S]",), expect=np.logical_not),
        Case("bitwise_not", ("u8[S]",), expect=lambda x: 255 - x),
        Case("neg", ("i64[B, S]",), expect=np.negative), Case("abs", ("i64[B, S]",), expect=np.abs),
        Case("abs", ("i8[S]",), expect=np.abs), Case("sign", ("i64[S]",), expect=np.sign), Case("sign", ("bool[S]",)),
        Case("relu", ("i32[S]",), expect=lambda x: np.maximum(x, 0)),
        Case("square", ("i64[S]",), expect=lambda x: x * x),
        Case("floor", ("i64[S]",), expect=lambda x: x), Case("round", ("i64[S]",), expect=lambda x, decimals: x),
        Case("isnan", ("i64[S]",), expect=np.zeros_like), Case("isfinite", ("f16[S]",), expect=np.isfinite),
        Case("real", ("complex64[B, S]",), expect=np.real), Case("imag", ("complex64[B, S]",), expect=np.imag),
        Case("conj", ("complex64[B, S]",), expect=np.conj), Case("angle", ("complex64[S]",), expect=np.angle),
        Case("abs", ("complex64[S]",), expect=np.abs), Case("exp", ("complex64[S]",), expect=np.exp),
        Case("neg", ("complex64[S]",), expect=np.negative), Case("neg", ("f32[]",), expect=np.negative),
    ]
    for op in ("exp", "tanh", "gelu", "sigmoid", "silu", "rsqrt", "neg", "relu"):
        cases += [Case(op, (f"{t}[B, S]",), label=t) for t in ("bf16", "f16", "f64")]
    return cases


_MAGNITUDES = between(0.1, 4.0)
_EXPONENTS = between(-3.0, 3.0)


_BINARY: dict[str, Formula] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "fmax": np.fmax, "fmin": np.fmin, "atan2": np.arctan2, "hypot": np.hypot, "copysign": np.copysign,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "heaviside": lambda a, b: np.where(a == 0, b, a > 0), "logaddexp": np.logaddexp,
}
_INTEGER_BINARY: dict[str, Formula] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "fmax": np.fmax, "fmin": np.fmin, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor, "heaviside": lambda a, b: np.where(a == 0, b, a > 0),
}
_nonzero = whole(1, 9)


def _binary_cases() -> list[Case]:
    cases = [Case(op, ("f32[B, S]", "f32[S]"), expect=f) for op, f in _BINARY.items()]
    cases += [Case(op, ("i64[B, S]", "i64[S]"), expect=f) for op, f in _INTEGER_BINARY.items()]
    for op, f in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        cases.append(Case(f"logical_{op}", ("bool[B, S]", "bool[S]"), expect=f))
        cases.append(Case(f"bitwise_{op}", ("bool[B, S]", "bool[B, 1]"), expect=f))
    for shapes in (("B, S", ""), ("", "B, S"), ("B, 1", "S"), ("B, S", "B, S"), ("B, 1, C", "1, S, 1"),
                   ("1", "B"), ("C, 1, 1", "B, C, S, T"), ("B, S", "1, 1")):
        pair = tuple(f"f32[{s}]" for s in shapes)
        cases.append(Case("sub", pair, label="x".join(s.replace(", ", ".") or "scalar" for s in shapes),
                          expect=np.subtract))
    cases += [Case(op, (f"{t}[B, S]", f"{t}[S]"), label=t) for op in ("add", "mul", "div", "maximum", "lt")
              for t in ("bf16", "f16", "f64")]
    cases += [Case(op, (f"{t}[B, S]", f"{t}[S]"), label=t, expect=f)
              for op, f in (("add", np.add), ("mul", np.multiply)) for t in ("i32", "complex64")]
    cases += [
        Case("add", ("u8[B, S]", "u8[S]"), fills={0: whole(200, 256), 1: whole(100, 256)}, label="wraps",
             expect=lambda a, b: (a.astype(int) + b) % 256),
        Case("add", ("bool[S]", "bool[S]"), expect=np.logical_or),
        Case("mul", ("bool[S]", "bool[S]"), expect=np.logical_and),
        Case("eq", ("bool[S]", "bool[S]"), expect=np.equal),
        Case("maximum", ("bool[S]", "bool[S]"), expect=np.logical_or),
        Case("eq", ("complex64[S]", "complex64[S]"), expect=np.equal),
        Case("div", ("f32[B, S]", "f32[S]"), expect=lambda a, b, rounding: a / b),
        Case("div", ("complex64[S]", "complex64[S]"), expect=lambda a, b, rounding: a / b),
        Case("div", ("f32[B, S]", "f32[S]"), {"rounding": "floor"}, label="floor", fills={1: _MAGNITUDES},
             special=False,
             expect=lambda a, b, rounding: np.floor(a / b)),
        Case("div", ("f32[B, S]", "f32[S]"), {"rounding": "floor"}, label="floor-odd"),
        Case("div", ("f32[B, S]", "f32[S]"), {"rounding": "trunc"}, label="trunc",
             expect=lambda a, b, rounding: np.trunc(a / b)),
        Case("div", ("i64[B, S]", "i64[S]"), {"rounding": "floor"}, label="i64-floor", fills={1: _nonzero},
             expect=lambda a, b, rounding: a // b),
        Case("div", ("i64[B, S]", "i64[S]"), {"rounding": "floor"}, label="i64-floor-negative", fills={1: whole(-8, 0)},
             expect=lambda a, b, rounding: a // b),
        Case("div", ("i32[B, S]", "i32[S]"), {"rounding": "trunc"}, label="i32-trunc", fills={1: _nonzero},
             expect=lambda a, b, rounding: np.trunc(a / b)),
        Case("remainder", ("f32[B, S]", "f32[S]"), fills={1: _MAGNITUDES}, special=False, expect=np.remainder),
        Case("remainder", ("f32[B, S]", "f32[S]"), fills={1: between(-3, -0.5)}, special=False, label="negative",
             expect=np.remainder),
        Case("remainder", ("i64[B, S]", "i64[S]"), fills={1: _nonzero}, expect=np.remainder),
        Case("remainder", ("i64[B, S]", "i64[S]"), fills={1: whole(-8, 0)}, label="i64-negative", expect=np.remainder),
        Case("fmod", ("f32[B, S]", "f32[S]"), fills={1: _MAGNITUDES}, special=False, expect=np.fmod),
        Case("fmod", ("i64[B, S]", "i64[S]"), fills={1: _nonzero}, expect=np.fmod),
        Case("pow", ("f32[B, S]", "f32[S]"), fills={0: _MAGNITUDES, 1: _EXPONENTS}, special=False, expect=np.power),
        Case("pow", ("f32[B, S]", "f32[S]"), label="odd"),
        Case("pow", ("f32[B, S]", "f32[]"), fills={1: whole(2, 3)}, label="square", expect=np.power),
        Case("pow", ("f32[B, S]", "f32[]"), fills={1: whole(3, 4)}, label="cube", expect=np.power),
        Case("pow", ("i64[B, S]", "i64[S]"), fills={1: whole(0, 5)}, expect=np.power),
        Case("shift_left", ("i64[B, S]", "i64[S]"), fills={1: whole(0, 9)}, expect=np.left_shift),
        Case("shift_right", ("i64[B, S]", "i64[S]"), fills={1: whole(0, 9)}, expect=np.right_shift),
        Case("shift_right", ("i32[S]", "i32[S]"), fills={1: whole(0, 9)}, expect=np.right_shift),
        Case("nextafter", ("f32[B, S]", "f32[S]")),
        Case("xlogy", ("f32[B, S]", "f32[S]"), fills={1: _MAGNITUDES}, expect=special.xlogy),
        Case("xlogy", ("f32[B, S]", "f32[S]"), label="odd"),
    ]
    return cases


def _clamp(x: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    raised = x if low is None else np.maximum(x, low)
    return raised if high is None else np.minimum(raised, high)


_CASTS = (
    ("f32", f16), ("f32", bf16), ("f32", f64), ("f64", f32), ("bf16", f32), ("f16", f32), ("f16", bf16),
    ("i64", f32), ("i32", i64), ("i64", i32), ("i64", bool_), ("bool", i64), ("bool", f32), ("u8", f32), ("i8", i32),
    ("i64", u8), ("i64", i8),
)


def _other_cases() -> list[Case]:
    cases = [Case("cast", (f"{a}[B, S]",), {"dtype": b}, label=f"{a}-{b}") for a, b in _CASTS]
    cases += [
        Case("cast", ("f32[B, S]",), {"dtype": i64}, label="f32-i64", special=False,
             expect=lambda x, dtype: np.trunc(x).astype(np.int64)),
        Case("cast", ("f32[B, S]",), {"dtype": i32}, label="f32-i32", special=False,
             expect=lambda x, dtype: np.trunc(x)),
        Case("cast", ("f32[B, S]",), {"dtype": u8}, label="f32-u8", fills={0: between(0, 255)},
             expect=lambda x, dtype: np.trunc(x)),
        Case("cast", ("f32[B, S]",), {"dtype": bool_}, label="f32-bool", expect=lambda x, dtype: x != 0),
        Case("cast", ("f32[S]",), {"dtype": f32}, label="f32-f32", expect=lambda x, dtype: x),
        Case("cast", ("f32[S]",), {"dtype": complex64}, label="f32-complex64", expect=lambda x, dtype: x + 0j,
             special=False),
        Case("cast", ("complex64[S]",), {"dtype": f32}, label="complex64-f32", expect=lambda x, dtype: x.real),
        Case("cast", ("f32[S]",), {"dtype": f8e4m3}, label="f32-f8e4m3", special=False),
        Case("where", ("bool[B, S]", "f32[B, S]", "f32[]"), expect=np.where),
        Case("where", ("bool[S]", "f32[B, S]", "f32[B, 1]"), expect=np.where),
        Case("where", ("bool[B, 1]", "i64[]", "i64[S]"), expect=np.where),
        Case("where", ("bool[B, S]", "bool[B, S]", "bool[S]"), expect=np.where),
        Case("where", ("bool[S]", "bf16[B, S]", "bf16[S]"), expect=np.where),
        Case("where", ("bool[S]", "complex64[B, S]", "complex64[]"), expect=np.where),
        Case("clamp", ("f32[B, S]", "f32[]", "f32[]"), fills={1: between(-1, 0), 2: between(0, 1)}, expect=_clamp),
        Case("clamp", ("f32[B, S]", "f32[]", None), fills={1: between(-1, 0)}, expect=_clamp),
        Case("clamp", ("f32[B, S]", None, "f32[S]"), expect=_clamp),
        Case("clamp", ("i64[B, S]", "i64[]", "i64[]"), fills={1: whole(-3, -2), 2: whole(3, 4)}, expect=_clamp),
        Case("clamp", ("f32[B, S]", "f32[S]", "f32[]"), fills={1: between(2, 3), 2: between(0, 1)}, label="crossed",
             expect=_clamp),
        Case("lerp", ("f32[B, S]", "f32[S]", "f32[]"), fills={2: between(0, 1)}, special=False,
             expect=lambda a, b, w: a + w * (b - a)),
        Case("complex", ("f32[B, S]", "f32[B, S]"), special=False, expect=lambda re, im: re + 1j * im),
        Case("view_as_real", ("complex64[B, S]",), expect=lambda x: np.stack([x.real, x.imag], -1)),
        Case("view_as_complex", ("f32[B, S, 2]",), special=False, expect=lambda x: x[..., 0] + 1j * x[..., 1]),
        Case("prelu", ("f32[B, C, S]", "f32[C]"), special=False,
             expect=lambda x, w: np.where(x > 0, x, w[:, None] * x)),
        Case("prelu", ("f32[B, S]", "f32[1]"), expect=lambda x, w: np.where(x > 0, x, w * x)),
    ]
    return cases


CASES = [*_unary_cases(), *_binary_cases(), *_other_cases()]

