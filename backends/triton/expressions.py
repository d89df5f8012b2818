"""Element-wise operators as expressions over kernels/math.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcomp.backends.triton.text import KNOWN, computed_type, literal, stored_type
from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType, bool_, f64
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType

Rule = Callable[[list[str], Node], "str | None"]


def _text(form: str) -> Rule:
    """A formula with `{0}`, `{1}` ... for operands."""
    return lambda a, node: form.format(*a)


def _call(name: str) -> Rule:
    return lambda a, node: f"math.{name}({', '.join(a)})"


def _float(form: str, otherwise: str) -> Rule:
    """A formula for floats, and one for whole numbers and truths."""
    return lambda a, node: (form if _kind(node).is_float else otherwise).format(*a)


def _narrow(form: str) -> Rule:
    """A formula that is accurate enough for f32, and not for f64."""
    return lambda a, node: None if _kind(node) is f64 else form.format(*a)


def _kind(node: Node) -> DType:
    return node.operand(len([v for v in node.operands if v is not None]) - 1 if node.op.name == "where" else 0).tensor.dtype


def _round(a: list[str], node: Node) -> str | None:
    if node.attrs["decimals"] or _kind(node) is f64:
        return None
    return f"math.round_even({a[0]})" if _kind(node).is_float else a[0]


def _sign(a: list[str], node: Node) -> str | None:
    kind = _kind(node)
    if kind is bool_:
        return a[0]
    return f"(({a[0]} > 0).to({computed_type(kind)}) - ({a[0]} < 0).to({computed_type(kind)}))"


def _div(a: list[str], node: Node) -> str | None:
    rounding, kind = node.attrs["rounding"], _kind(node)
    if rounding == "none":
        return f"({a[0]} / {a[1]})"
    if not kind.is_float:
        return f"math.{rounding}_div_int({a[0]}, {a[1]})"
    if kind is f64:
        return None
    return f"math.floor_div({a[0]}, {a[1]})" if rounding == "floor" else f"math.trunc({a[0]} / {a[1]})"


def _modulo(a: list[str], node: Node) -> str | None:
    kind, name = _kind(node), node.op.name
    if kind is f64:
        return None
    if kind.is_float:
        return f"math.{name}({a[0]}, {a[1]})"
    whole = "floor" if name == "remainder" else "trunc"
    return f"({a[0]} - {a[1]} * math.{whole}_div_int({a[0]}, {a[1]}))"


def _pow(a: list[str], node: Node) -> str | None:
    if not _kind(node).is_float:
        return None
    simple = {"2.0": f"({a[0]} * {a[0]})", "0.5": None, "-1.0": f"(1.0 / {a[0]})", "1.0": a[0],
              "3.0": f"({a[0]} * {a[0]} * {a[0]})"}
    exponent = a[1].split(", ")[1] if a[1].startswith("tl.full") else ""
    return simple.get(exponent) or f"math.pow({a[0]}, {a[1]})"


def _clamp(a: list[str], node: Node) -> str:
    text = a[0]
    if node.maybe(1) is not None:
        text = f"math.maximum({text}, {a[1]})"
    if node.maybe(2) is not None:
        text = f"math.minimum({text}, {a[-1]})"
    return text


def _cast(a: list[str], node: Node) -> str | None:
    source, target = node.operand(0).tensor.dtype, node.type.dtype
    if source == target:
        return a[0]
    if target is bool_:
        return f"({a[0]} != 0)"
    if source.is_float and not target.is_float and target is not dtypes.i64:
        # Out of range is undefined; by way of i64 it wraps as it does in torch on the CPU.
        return f"({a[0]}).to(tl.int64).to({computed_type(target)})"
    if target.is_float and target.bits < 32:
        given = f"({a[0]}).to(tl.float32)"
        return f"numbers.wide(numbers.narrow({given}, {stored_type(target)}))"
    return f"({a[0]}).to({computed_type(target)})"


def _bits(operator: str) -> Rule:
    return lambda a, node: f"({a[0]} {operator} {a[1]})"


def _invert(a: list[str], node: Node) -> str:
    return f"({a[0]} == 0)" if _kind(node) is bool_ else f"(~{a[0]})"


def _extreme(name: str, on_truths: str, *, propagate: bool) -> Rule:
    def rule(a: list[str], node: Node) -> str:
        kind = _kind(node)
        if kind is bool_:
            return f"({a[0]} {on_truths} {a[1]})"
        if kind.is_float and propagate:
            return f"math.{name}({a[0]}, {a[1]})"
        return f"tl.{name}({a[0]}, {a[1]})"

    return rule


def _on_truths(form: str, on_truths: str) -> Rule:
    return lambda a, node: (on_truths if _kind(node) is bool_ else form).format(*a)


def _order(operator: str) -> Rule:
    def rule(a: list[str], node: Node) -> str:
        if _kind(node) is bool_:
            a = [f"{x}.to(tl.int8)" for x in a]
        return f"({a[0]} {operator} {a[1]})"

    return rule


def _heaviside(a: list[str], node: Node) -> str | None:
    kind = _kind(node)
    if kind is bool_:
        return None
    return f"tl.where({a[0]} == 0, {a[1]}, ({a[0]} > 0).to({computed_type(kind)}))"


def _with(form: str, *attrs: str, narrow: bool = False) -> Rule:
    """A formula that also takes attributes, as numbers of the operand's type."""
    def rule(a: list[str], node: Node) -> str | None:
        kind = _kind(node)
        if narrow and kind is f64:
            return None
        return form.format(*a, **{n: literal(node.attrs[n], kind) for n in attrs})

    return rule


def _elu(a: list[str], node: Node) -> str | None:
    kind = _kind(node)
    if kind is f64:
        return None
    scale = {"elu": ("alpha", "scale", "input_scale")}
    if node.op.name == "elu":
        values = [node.attrs[n] for n in scale["elu"]]
    elif node.op.name == "selu":
        values = [1.6732632423543772, 1.0507009873554805, 1.0]
    else:
        values = [node.attrs["alpha"], 1.0, 1.0 / node.attrs["alpha"]]
    return f"math.elu({a[0]}, {', '.join(repr(float(v)) for v in values)})"


def _relu(a: list[str], node: Node) -> str:
    return f"tl.where({a[0]} < 0, {literal(0, _kind(node))}, {a[0]})"


def _gelu(a: list[str], node: Node) -> str:
    return f"math.gelu_{'tanh' if node.attrs['approximate'] == 'tanh' else 'erf'}({a[0]})"


RULES: dict[str, Rule] = {
    "neg": _text("(-{0})"), "abs": _float("tl.abs({0})", "tl.abs({0})"), "sign": _sign,
    "floor": _float("tl.floor({0})", "{0}"), "ceil": _float("tl.ceil({0})", "{0}"),
    "trunc": _float("math.trunc({0})", "{0}"),
    "round": _round, "frac": _text("({0} - math.trunc({0}))"), "sqrt": _text("tl.sqrt({0})"),
    "rsqrt": _text("(1.0 / tl.sqrt({0}))"), "reciprocal": _text("(1.0 / {0})"), "square": _text("({0} * {0})"),
    "exp": _text("tl.exp({0})"), "exp2": _text("tl.exp2({0})"), "log": _text("tl.log({0})"), "log2": _text("tl.log2({0})"),
    "log10": _text("(tl.log({0}) * 0.4342944819032518)"), "expm1": _narrow("math.expm1({0})"),
    "log1p": _narrow("math.log1p({0})"), "sin": _text("tl.sin({0})"), "cos": _text("tl.cos({0})"),
    "tan": _text("(tl.sin({0}) / tl.cos({0}))"), "sigmoid": _text("math.sigmoid({0})"), "erf": _text("tl.erf({0})"),
    **{n: _narrow(f"math.{n}({{0}})") for n in (
        "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "log_sigmoid",
    )},
    **{n: _narrow(f"math.{n}({{0}}, {{1}})") for n in ("atan2", "hypot", "logaddexp")},
    "copysign": _call("copysign"), "pow": _pow,
    "xlogy": _text("tl.where({1} != {1}, {1}, tl.where({0} == 0, 0.0, {0} * tl.log({1})))"),
    "lerp": _text("({0} + {2} * ({1} - {0}))"),
    "isnan": _float("({0} != {0})", "(({0} == 0) & ({0} != 0))"),
    "isinf": _float("math.is_inf({0})", "(({0} == 0) & ({0} != 0))"),
    "isfinite": _float("math.is_finite({0})", "(({0} == 0) | ({0} != 0))"),
    "add": _on_truths("({0} + {1})", "({0} | {1})"), "sub": _text("({0} - {1})"),
    "mul": _on_truths("({0} * {1})", "({0} & {1})"),
    "div": _div, "remainder": _modulo, "fmod": _modulo,
    "maximum": _extreme("maximum", "|", propagate=True), "minimum": _extreme("minimum", "&", propagate=True),
    "fmax": _extreme("maximum", "|", propagate=False), "fmin": _extreme("minimum", "&", propagate=False),
    "eq": _order("=="), "ne": _order("!="), "lt": _order("<"), "le": _order("<="), "gt": _order(">"), "ge": _order(">="),
    "logical_and": _bits("&"), "logical_or": _bits("|"), "logical_xor": _bits("^"), "logical_not": _text("({0} == 0)"),
    "bitwise_and": _bits("&"), "bitwise_or": _bits("|"), "bitwise_xor": _bits("^"), "bitwise_not": _invert,
    "shift_left": _text("({0} << {1})"), "shift_right": _text("({0} >> {1})"), "heaviside": _heaviside,
    "where": _text("tl.where({0}, {1}, {2})"), "clamp": _clamp, "cast": _cast,
    "relu": _relu,
    "relu6": _float("math.minimum(math.maximum({0}, 0.0), 6.0)", "tl.minimum(tl.maximum({0}, 0), 6).to({0}.dtype)"),
    "hardtanh": _with("math.minimum(math.maximum({0}, {min}), {max})", "min", "max"),
    "threshold": _with("tl.where({0} <= {threshold}, {value}, {0})", "threshold", "value"),
    "silu": _text("({0} / (1.0 + tl.exp(-{0})))"), "mish": _narrow("({0} * math.tanh(math.softplus({0}, 1.0, 20.0)))"),
    "softplus": _with("math.softplus({0}, {beta}, {threshold})", "beta", "threshold", narrow=True),
    "hardswish": _text("({0} * math.minimum(math.maximum({0} + 3.0, 0.0), 6.0) / 6.0)"),
    "hardsigmoid": _text("(math.minimum(math.maximum({0} + 3.0, 0.0), 6.0) / 6.0)"),
    "leaky_relu": _with("tl.where({0} > 0, {0}, {0} * {slope})", "slope"),
    "elu": _elu, "selu": _elu, "celu": _elu, "gelu": _gelu, "tanhshrink": _narrow("({0} - math.tanh({0}))"),
    "softsign": _text("({0} / (1.0 + tl.abs({0})))"),
    "softshrink": _with("tl.where({0} > {lambd}, {0} - {lambd}, tl.where({0} < -{lambd}, {0} + {lambd}, {0} * 0.0))",
                        "lambd"),
    "hardshrink": _with("tl.where(tl.abs({0}) <= {lambd}, 0.0, {0})", "lambd"),
    "angle": _text("tl.where({0} != {0}, {0}, tl.where({0} < 0, 3.141592653589793, 0.0))"),
}
"""Operator name to expression; a rule gives None for what it cannot say."""


def unsupported(node: Node) -> str | None:
    """Why a node has no expression; None when it has one."""
    if node.op.name not in RULES:
        return f"{node.op.name} has no Triton expression"
    for value in (*node.operands, *node.results):
        if value is None:
            continue
        if not isinstance(value.type, TensorType) or value.type.dtype.name not in KNOWN or value.type.dtype.bits < 8:
            return f"{value.type.dtype} is not computed with in Triton"
    # Operands are stand-ins: only whether there is a formula for these types and attributes is asked.
    if RULES[node.op.name](["x"] * len([v for v in node.operands if v is not None]), node) is None:
        return f"{node.op.name} of {node.operand(0).tensor.dtype} with these attributes has no Triton expression"
    return None


def is_scalar(node: Node) -> bool:
    """Whether a node is computed element by element with an expression."""
    return unsupported(node) is None


def scalar_lines(
    nodes: Iterable[Node], leaf: Mapping[Value, str], number: Callable[[Value], Any | None], emit: Callable[[str], None],
    prefix: str = "t",
) -> dict[Value, str] | str:
    """Emit statements that compute some element-wise nodes; returns the name of every value, or why that cannot be.

    `leaf` names values computed elsewhere, `number` gives the number that a value is, if it is one.
    """
    known: dict[Value, str] = dict(leaf)
    for node in nodes:
        args: list[str] = []
        for value in node.operands:
            if value is None:
                continue
            if value not in known:
                constant = number(value)
                if not isinstance(constant, (bool, int, float)):
                    return f"%{value.name} is not at hand"
                known[value] = literal(constant, value.tensor.dtype)
            args.append(known[value])
        reason = unsupported(node)
        if reason is not None:
            return reason
        text = RULES[node.op.name](args, node)
        assert text is not None
        name = f"{prefix}{len(known)}"
        emit(f"{name} = {text}")
        known[node.result] = name
    return known
