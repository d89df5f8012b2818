"""Element-wise operators as scalar C++ expressions over kernels/math.hpp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcomp.backends.cpu.cxx import c_type, is_narrow, literal, register_type
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value

Rule = Callable[[list[str], Node], "str | None"]


def _call(name: str) -> Rule:
    return lambda args, node: f"math::{name}({', '.join(args)})"


def _attrs(name: str, *attrs: str) -> Rule:
    def rule(args: list[str], node: Node) -> str:
        dtype = node.operand(0).tensor.dtype
        return f"math::{name}({', '.join([*args, *(literal(node.attrs[a], dtype) for a in attrs)])})"

    return rule


def _infix(operator: str) -> Rule:
    return lambda args, node: f"({args[0]} {operator} {args[1]})"


def _bitwise(operator: str) -> Rule:
    def rule(args: list[str], node: Node) -> str:
        target = register_type(node.type.dtype)
        return f"{target}({args[0]} {operator} {args[1]})"

    return rule


def _round(args: list[str], node: Node) -> str | None:
    return None if node.attrs["decimals"] else f"math::round({args[0]})"


def _div(args: list[str], node: Node) -> str:
    rounding = node.attrs["rounding"]
    if rounding == "none":
        return f"({args[0]} / {args[1]})"
    divisor = args[1] if node.type.dtype.is_float else f"checked_divisor({args[1]}, fault)"
    return f"math::{'floor_div' if rounding == 'floor' else 'trunc_div'}({args[0]}, {divisor})"


def _modulo(name: str) -> Rule:
    def rule(args: list[str], node: Node) -> str:
        divisor = args[1] if node.type.dtype.is_float else f"checked_divisor({args[1]}, fault)"
        return f"math::{name}({args[0]}, {divisor})"

    return rule


def _pow(args: list[str], node: Node) -> str:
    exponent = args[1].strip("()f")
    if node.type.dtype.is_float:
        if exponent in ("2.0", "2", "0x1.0000000000000p+1"):
            return f"math::square({args[0]})"
        if exponent == "0x1.0000000000000p-1":
            return f"math::sqrt({args[0]})"
    return f"math::pow({args[0]}, {args[1]})"


def _clamp(args: list[str], node: Node) -> str:
    text = args[0]
    if node.maybe(1) is not None:
        text = f"math::maximum({text}, {args[1]})"
    if node.maybe(2) is not None:
        text = f"math::minimum({text}, {args[-1]})"
    return text


def _cast(args: list[str], node: Node) -> str:
    source, target = node.operand(0).tensor.dtype, node.type.dtype
    if source == target:
        return args[0]
    if is_narrow(target):
        return f"to_f32(convert<{c_type(target)}>({args[0]}))"
    return f"convert<{c_type(target)}>({args[0]})"


_COARSE_SCALE = 32 * 1.6e-4
"""From this scale on, a requantized result may be off by `kCoarse` (activation.hpp) before it is rounded."""


def _gelu(args: list[str], node: Node) -> str:
    form = "tanh" if node.attrs["approximate"] == "tanh" else "erf"
    return f"math::gelu_{form}{'_coarse' if _is_coarse(node) else ''}({args[0]})"


def _is_coarse(node: Node) -> bool:
    """Whether an error of 1/32 of a step is nothing to those who read a result: all of them requantize it to 8 bits,
    with scales that are large enough."""
    users = node.result.users
    encodings = [u.results[0].tensor.encoding for u in users if u.op.name == "quantize"]
    return node.type.dtype.name == "f32" and len(encodings) == len(users) > 0 and all(
        isinstance(e, Affine) and e.dtype.bits == 8 and e.scale is not None and e.scale >= _COARSE_SCALE
        for e in encodings
    )


def _same_or_float(name: str, otherwise: str) -> Rule:
    """A function of floats that is trivial on whole numbers."""
    return lambda args, node: f"math::{name}({args[0]})" if node.operand(0).tensor.dtype.is_float else otherwise


def _sign(args: list[str], node: Node) -> str:
    return args[0] if node.type.dtype.kind == "bool" else f"math::sign({args[0]})"


def _bool_not(args: list[str], node: Node) -> str:
    if node.type.dtype.kind == "bool":
        return f"!{args[0]}"
    return f"{register_type(node.type.dtype)}(~{args[0]})"


def _typed(text: str) -> Rule:
    """A formula with `{0}`, `{1}` for operands and `{T}` for the type computed in."""
    return lambda args, node: text.format(*args, T=register_type(node.operand(0).tensor.dtype))


def _extreme(name: str, on_bool: str) -> Rule:
    def rule(args: list[str], node: Node) -> str:
        if node.type.dtype.kind == "bool":
            return f"bool({args[0]} {on_bool} {args[1]})"
        return f"math::{name}({args[0]}, {args[1]})"

    return rule


def _heaviside(args: list[str], node: Node) -> str | None:
    if node.type.dtype.kind == "bool":
        return None
    kind = register_type(node.type.dtype)
    return f"({args[0]} == {kind}(0) ? {args[1]} : ({args[0]} > {kind}(0) ? {kind}(1) : {kind}(0)))"


RULES: dict[str, Rule] = {
    **{name: _call(name) for name in (
        "neg", "abs", "floor", "ceil", "trunc", "frac", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt",
        "rsqrt", "reciprocal", "square", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
        "acosh", "atanh", "sigmoid", "erf", "erfc", "lgamma", "add", "sub", "mul", "atan2", "hypot", "copysign", "xlogy",
        "logaddexp", "lerp", "relu", "relu6", "silu", "mish", "hardswish", "hardsigmoid", "selu", "log_sigmoid",
        "tanhshrink", "softsign", "shift_left", "shift_right",
    )},
    "softplus": _attrs("softplus", "beta", "threshold"), "hardtanh": _attrs("hardtanh", "min", "max"),
    "leaky_relu": _attrs("leaky_relu", "slope"), "elu": _attrs("elu", "alpha", "scale", "input_scale"),
    "celu": _attrs("celu", "alpha"), "threshold": _attrs("threshold", "threshold", "value"),
    "softshrink": _attrs("softshrink", "lambd"), "hardshrink": _attrs("hardshrink", "lambd"),
    "round": _round, "div": _div, "pow": _pow, "clamp": _clamp, "cast": _cast, "gelu": _gelu, "sign": _sign,
    "remainder": _modulo("remainder"), "fmod": _modulo("fmod"),
    "isnan": _same_or_float("is_nan", "false"), "isinf": _same_or_float("is_inf", "false"),
    "isfinite": _same_or_float("is_finite", "true"),
    "eq": _infix("=="), "ne": _infix("!="), "lt": _infix("<"), "le": _infix("<="), "gt": _infix(">"), "ge": _infix(">="),
    "logical_and": _bitwise("&"), "logical_or": _bitwise("|"), "logical_xor": _bitwise("^"),
    "logical_not": _typed("!{0}"), "bitwise_and": _bitwise("&"), "bitwise_or": _bitwise("|"),
    "bitwise_xor": _bitwise("^"), "bitwise_not": _bool_not,
    "maximum": _extreme("maximum", "|"), "minimum": _extreme("minimum", "&"), "fmax": _extreme("fmax", "|"),
    "fmin": _extreme("fmin", "&"), "heaviside": _heaviside,
    "where": _typed("({0} ? {1} : {2})"),
    "angle": _typed("(math::is_nan({0}) ? {0} : ({0} < {T}(0) ? {T}(3.14159265358979323846) : {T}(0)))"),
    "conj": _typed("{0}"),
}
"""Operator name to expression; a rule gives None for what it cannot say."""


def scalar_lines(
    nodes: Iterable[Node], leaf: Mapping[Value, str], number: Callable[[Value], Any | None]
) -> tuple[list[str], dict[Value, str]] | str:
    """C++ statements that compute some element-wise nodes at one index, and the expression of every value.

    `leaf` gives the expressions of values computed elsewhere, `number` the number that a value is, if it is one.
    Returns the reason when a node cannot be said so.
    """
    lines: list[str] = []
    known: dict[Value, str] = dict(leaf)
    for node in nodes:
        args: list[str] = []
        for value in node.operands:
            if value is None:
                continue
            if value not in known:
                constant = number(value)
                if constant is None or not isinstance(constant, (bool, int, float, complex)):
                    return f"%{value.name} is not at hand"
                known[value] = literal(constant, value.tensor.dtype)
            args.append(known[value])
        unsupported = unsupported_reason(node)
        if unsupported is not None:
            return unsupported
        text = _complex_text(node, args) if _is_complex(node) else RULES[node.op.name](args, node)
        if text is None:
            return f"{node.op.name} has no scalar form with these attributes"
        name = f"t{len(lines)}"
        lines.append(f"const {register_type(node.type.dtype)} {name} = {text};")
        known[node.result] = name
    return lines, known


_COMPLEX: dict[str, str] = {
    **{name: f"math::{name}({{0}}, {{1}})" for name in ("add", "sub", "mul", "div")},
    **{name: f"math::{name}({{0}})" for name in (
        "neg", "conj", "square", "reciprocal", "abs", "angle", "exp", "log",
    )},
    "eq": "math::equal({0}, {1})", "ne": "!math::equal({0}, {1})", "isnan": "math::is_nan({0})",
    "where": "({0} ? {1} : {2})",
}
"""Operators on complex64 as expressions over kernels/complex.hpp."""


def _complex_text(node: Node, args: list[str]) -> str | None:
    """The expression of a node that has a complex operand or result, where there is one."""
    if node.op.name == "cast":
        return _cast(args, node)
    if node.op.name == "div" and node.attrs["rounding"] != "none":
        return None
    form = _COMPLEX.get(node.op.name)
    return None if form is None else form.format(*args)


def _is_complex(node: Node) -> bool:
    return any(v is not None and v.tensor.dtype.is_complex for v in (*node.operands, *node.results))


def unsupported_reason(node: Node) -> str | None:
    """Why a node has no scalar expression; None when it has one."""
    if node.op.name not in RULES:
        return f"{node.op.name} has no scalar form"
    if _is_complex(node) and node.op.name not in (*_COMPLEX, "cast"):
        return f"{node.op.name} of complex numbers has no scalar form"
    for value in (*node.operands, *node.results):
        if value is not None and value.tensor.dtype.bits < 8:
            return f"{value.tensor.dtype} has no scalar form"
    return None


def is_scalar(node: Node) -> bool:
    """Whether a node can be computed index by index with a scalar expression."""
    return unsupported_reason(node) is None


def load(expression: str, dtype: DType) -> str:
    """A stored element as what it is computed in."""
    return f"to_f32({expression})" if is_narrow(dtype) else expression


def store(expression: str, dtype: DType) -> str:
    """A computed element as it is stored."""
    return f"convert<{c_type(dtype)}>({expression})" if is_narrow(dtype) else expression
