"""Importers of element-wise operators: dtype promotion and Python numbers become explicit."""

from __future__ import annotations

from typing import Any

from mcomp.capture.importing import Call, Decline, imports, promoted
from mcomp.ir import dtypes
from mcomp.ir.dims import Expr
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Value
from mcomp.rewrite.facts import as_held

SAME = (
    "abs", "neg", "sign", "floor", "ceil", "trunc", "frac", "square", "relu", "logical_not", "bitwise_not", "isnan",
    "isinf", "isfinite", "real", "imag", "angle", "relu6", "silu", "mish", "selu", "tanhshrink", "softsign",
    "log_sigmoid", "conj_physical",
)
REAL = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin",
    "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf", "erfc", "erfinv", "lgamma",
    "digamma",
)
RENAMED = {
    "conj_physical": "conj", "special_expit": "sigmoid", "special_erf": "erf", "special_erfc": "erfc",
    "special_erfinv": "erfinv", "special_exp2": "exp2", "special_expm1": "expm1", "special_log1p": "log1p",
    "special_gammaln": "lgamma", "special_digamma": "digamma", "arctan": "atan", "arcsin": "asin", "arccos": "acos",
    "absolute": "abs", "negative": "neg", "fix": "trunc",
}


def _unary(call: Call) -> Value:
    base = call.name.split(".")[1]
    return call.emit(RENAMED.get(base, base), [call.value("self")])


def _real(call: Call) -> Value:
    base = call.name.split(".")[1]
    return call.emit(RENAMED.get(base, base), [call.cast(call.value("self"), call.result.dtype)])


for _name in SAME:
    imports(f"aten.{_name}.default")(_unary)
for _name in REAL:
    imports(f"aten.{_name}.default")(_real)
for _name, _op in RENAMED.items():
    if _name != "conj_physical":
        imports(f"aten.{_name}.default")(_real if _op in REAL else _unary)


@imports("aten.round.default", "aten.round.decimals")
def round_(call: Call) -> Value:
    return call.emit("round", [call.value("self")], decimals=call.get("decimals", 0))


@imports("aten.positive.default", "aten.conj.default", "aten._conj.default", "aten.resolve_conj.default")
def positive(call: Call) -> Value:
    value = call.value("self")
    return call.emit("conj", [value]) if "conj" in call.name and value.tensor.dtype.is_complex else value


# activations


@imports("aten.gelu.default")
def gelu(call: Call) -> Value:
    return call.emit("gelu", [call.value("self")], approximate=call["approximate"])


@imports("aten.softplus.default")
def softplus(call: Call) -> Value:
    return call.emit(
        "softplus", [call.value("self")], beta=float(call["beta"]), threshold=float(call["threshold"])
    )


@imports("aten.hardswish.default", "aten.hardsigmoid.default")
def hard(call: Call) -> Value:
    return call.emit(call.name.split(".")[1], [call.value("self")])


@imports("aten.hardtanh.default")
def hardtanh(call: Call) -> Value:
    value = call.value("self")
    low, high = call["min_val"], call["max_val"]
    if not value.tensor.dtype.is_float:
        return clamp_between(call, value, low, high)
    return call.emit("hardtanh", [value], min=float(low), max=float(high))


@imports("aten.leaky_relu.default")
def leaky_relu(call: Call) -> Value:
    return call.emit("leaky_relu", [call.value("self")], slope=float(call["negative_slope"]))


@imports("aten.elu.default")
def elu(call: Call) -> Value:
    return call.emit(
        "elu", [call.value("self")], alpha=float(call["alpha"]), scale=float(call["scale"]),
        input_scale=float(call["input_scale"]),
    )


@imports("aten.celu.default")
def celu(call: Call) -> Value:
    return call.emit("celu", [call.value("self")], alpha=float(call["alpha"]))


@imports("aten.threshold.default")
def threshold(call: Call) -> Value:
    return call.emit(
        "threshold", [call.value("self")], threshold=float(call["threshold"]), value=float(call["value"])
    )


@imports("aten.softshrink.default", "aten.hardshrink.default")
def shrink(call: Call) -> Value:
    return call.emit(call.name.split(".")[1], [call.value("self")], lambd=float(call["lambd"]))


@imports("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(call: Call) -> Value:
    value, weight = call.value("self"), call.value("weight")
    if weight.tensor.rank != 1:
        weight = call.reshape(weight, (weight.tensor.numel,))
    return call.emit("prelu", [value, weight])


@imports("aten.glu.default")
def glu(call: Call) -> Value:
    value = call.value("self")
    axis = call["dim"] % value.tensor.rank
    half = call.result.shape[axis]
    first, second = call.emit_many("split", [value], axis=axis, sizes=(half, half))
    return call.emit("mul", [first, call.emit("sigmoid", [second])])


@imports("aten.log_sigmoid_forward.default")
def log_sigmoid_forward(call: Call) -> list[Value | None]:
    return [call.emit("log_sigmoid", [call.value("self")]), None]


# binary


def operand(call: Call, value: Any, dtype: DType) -> Value:
    """A tensor cast to `dtype`, or a number as a tensor of no dimensions."""
    return call.cast(value, dtype) if isinstance(value, Value) else call.full(value, dtype)


def binary(call: Call, op: str, a: Any, b: Any, dtype: DType | None = None, **attrs: Any) -> Value:
    """An element-wise operation on two tensors or numbers, computed in `dtype` (default: torch's promotion).

    16-bit floats meet Python numbers in f32, as torch computes them, unless the number is exact in 16 bits.
    """
    wanted = dtype or promote(a, b)
    if wanted.bits == 16 and wanted.is_float and not (_exact(a, wanted) and _exact(b, wanted)):
        wide = call.emit(op, [operand(call, a, dtypes.f32), operand(call, b, dtypes.f32)], **attrs)
        return call.cast(wide, wanted) if wide.tensor.dtype == dtypes.f32 else wide
    return call.emit(op, [operand(call, a, wanted), operand(call, b, wanted)], **attrs)


def promote(*operands: Any) -> DType:
    """torch's promotion; a size counts as an int."""
    return promoted(*(1 if isinstance(one, Expr) else one for one in operands))


def _exact(value: Any, dtype: DType) -> bool:
    """Whether 16 bits hold the operand: tensors as they are, numbers with few digits."""
    if isinstance(value, Value):
        return value.tensor.dtype.bits <= 16 or not value.tensor.dtype.is_float or value.tensor.rank > 0
    if not isinstance(value, int | float):
        return False
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        return True
    mantissa, digits = number.hex().split("p")[0].split(".")[-1].rstrip("0"), 2
    return len(mantissa) <= digits - (dtype == dtypes.bf16) and abs(number) < 60000


@imports("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar", "aten.rsub.Tensor",
         "aten.rsub.Scalar", "aten.subtract.Tensor")
def add(call: Call) -> Value:
    a, b, alpha = call["self"], call["other"], call.get("alpha", 1)
    op = "add" if ".add." in call.name else "sub"
    reverse = ".rsub." in call.name
    wanted = promote(a, b)
    if alpha != 1:
        scaled = a if reverse else b
        scaled = binary(call, "mul", scaled, alpha, wanted) if isinstance(scaled, Value) else scaled * alpha
        a, b = (scaled, b) if reverse else (a, scaled)
    if op == "add" and wanted.kind == "bool":
        return binary(call, "logical_or", a, b, wanted)
    return binary(call, op, b, a, wanted) if reverse else binary(call, op, a, b, wanted)


@imports("aten.mul.Tensor", "aten.mul.Scalar", "aten.multiply.Tensor", "aten.multiply.Scalar")
def mul(call: Call) -> Value:
    wanted = promote(call["self"], call["other"])
    return binary(call, "logical_and" if wanted.kind == "bool" else "mul", call["self"], call["other"], wanted)


@imports("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor", "aten.divide.Tensor")
def div(call: Call) -> Value:
    return binary(call, "div", call["self"], call["other"], call.result.dtype)


@imports("aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.divide.Tensor_mode")
def div_mode(call: Call) -> Value:
    mode = call["rounding_mode"] or "none"
    wanted = call.result.dtype if mode == "none" else None
    return binary(call, "div", call["self"], call["other"], wanted, rounding=mode)


@imports("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(call: Call) -> Value:
    return binary(call, "div", call["self"], call["other"], rounding="floor")


BINARY = {
    "remainder": ("Tensor", "Scalar", "Scalar_Tensor"), "fmod": ("Tensor", "Scalar"), "maximum": ("default",),
    "minimum": ("default",), "fmax": ("default",), "fmin": ("default",), "hypot": ("default",),
    "copysign": ("Tensor", "Scalar"), "nextafter": ("default",), "heaviside": ("default",), "logaddexp": ("default",),
}
COMPARISONS = {
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "not_equal": "ne", "less": "lt",
    "less_equal": "le", "greater": "gt", "greater_equal": "ge",
}
BITS = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
SHIFTS = {
    "__lshift__": "shift_left", "bitwise_left_shift": "shift_left", "__rshift__": "shift_right",
    "bitwise_right_shift": "shift_right",
}


def _binary(call: Call) -> Value:
    first, second = list(call.arguments)[:2]
    return binary(call, call.name.split(".")[1], call[first], call[second])


def _comparison(call: Call) -> Value:
    op, a, b = COMPARISONS[call.name.split(".")[1]], call["self"], call["other"]
    wanted = promote(a, b)
    if wanted.bits == 16 and wanted.is_float:  # unlike in arithmetic, numbers are rounded first
        held = [as_held(x, wanted) if isinstance(x, int | float) else x for x in (a, b)]
        return call.emit(op, [operand(call, x, wanted) for x in held])
    return binary(call, op, a, b)


def _bitwise(call: Call) -> Value:
    name = call.name.split(".")[1].strip("_").removeprefix("bitwise_")
    wanted = promote(call["self"], call["other"])
    op = f"logical_{name}" if wanted.kind == "bool" else BITS[name]
    return binary(call, op, call["self"], call["other"], wanted)


def _shift(call: Call) -> Value:
    return binary(call, SHIFTS[call.name.split(".")[1]], call["self"], call["other"])


for _name, _overloads in BINARY.items():
    for _overload in _overloads:
        imports(f"aten.{_name}.{_overload}")(_binary)
for _name in COMPARISONS:
    for _overload in ("Tensor", "Scalar"):
        imports(f"aten.{_name}.{_overload}")(_comparison)
for _name in BITS:
    for _overload in ("Tensor", "Scalar"):
        imports(f"aten.__{_name}__.{_overload}", f"aten.bitwise_{_name}.{_overload}")(_bitwise)
for _name in SHIFTS:
    imports(f"aten.{_name}.Scalar" if _name[0] == "_" else f"aten.{_name}.Tensor_Scalar")(_shift)
    imports(f"aten.{_name}.Tensor")(_shift)


@imports("aten.max.other", "aten.min.other")
def extreme(call: Call) -> Value:
    return binary(call, "maximum" if ".max." in call.name else "minimum", call["self"], call["other"])


@imports("aten.atan2.default", "aten.arctan2.default", "aten.xlogy.Tensor", "aten.xlogy.Scalar_Other",
         "aten.special_xlogy.default")
def real_binary(call: Call) -> Value:
    return binary(call, "xlogy" if "xlogy" in call.name else "atan2", call["self"], call["other"], call.result.dtype)


@imports("aten.logical_and.default", "aten.logical_or.default", "aten.logical_xor.default")
def logical(call: Call) -> Value:
    return call.emit(call.name.split(".")[1], [truth(call, call.value("self")), truth(call, call.value("other"))])


def truth(call: Call, value: Value) -> Value:
    """Whether elements differ from zero, as bool."""
    dtype = value.tensor.dtype
    return value if dtype.kind == "bool" else call.emit("ne", [value, call.full(0, dtype)])


POWERS = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


@imports("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def pow_(call: Call) -> Value:
    base, exponent = call["self"], call["exponent"]
    wanted = call.result.dtype
    if isinstance(base, Value) and isinstance(exponent, int | float):
        short = POWERS.get(exponent)
        if exponent == 1:
            return call.cast(base, wanted)
        if short is not None and (wanted.is_float or exponent == 2):
            return call.emit(short, [call.cast(base, wanted)])
        if exponent == 3:
            value = call.cast(base, wanted)
            return call.emit("mul", [call.emit("mul", [value, value]), value])
    return binary(call, "pow", base, exponent, wanted)


# ternary


@imports("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(call: Call) -> Value:
    dtype = call.result.dtype
    condition = truth(call, call.value("condition"))
    return call.emit("where", [condition, operand(call, call["self"], dtype), operand(call, call["other"], dtype)])


@imports("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(call: Call) -> Value:
    value = call.value("self")
    dtype = value.tensor.dtype
    return call.emit("where", [truth(call, call.value("mask")), operand(call, call["value"], dtype), value])


def clamp_between(call: Call, value: Value, low: Any, high: Any) -> Value:
    """clamp in torch's promotion; bounds are numbers, tensors or None."""
    dtype = call.result.dtype
    bounds = [None if bound is None else operand(call, bound, dtype) for bound in (low, high)]
    return call.emit("clamp", [call.cast(value, dtype), *bounds])


@imports("aten.clamp.default", "aten.clamp.Tensor", "aten.clip.default", "aten.clip.Tensor")
def clamp(call: Call) -> Value:
    return clamp_between(call, call.value("self"), call["min"], call["max"])


@imports("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(call: Call) -> Value:
    return clamp_between(call, call.value("self"), call["min"], None)


@imports("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(call: Call) -> Value:
    return clamp_between(call, call.value("self"), None, call["max"])


@imports("aten.lerp.Tensor", "aten.lerp.Scalar")
def lerp(call: Call) -> Value:
    weight = operand(call, call["weight"], call.result.dtype)
    return call.emit("lerp", [call.value("self"), call.value("end"), weight])


@imports("aten.addcmul.default", "aten.addcdiv.default")
def addc(call: Call) -> Value:
    dtype = call.result.dtype
    first, second, scale = call.value("tensor1"), call.value("tensor2"), call["value"]
    op = "mul" if "addcmul" in call.name else "div"
    term = binary(call, op, first, second, dtype)
    if scale != 1:
        term = binary(call, "mul", term, scale, dtype)
    return binary(call, "add", call.value("self"), term, dtype)


# conversions


@imports("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.type_as.default",
         "aten.to.other", "prims.convert_element_type.default")
def convert(call: Call) -> Value:
    value = call.value("a") if call.name.startswith("prims") else call.value("self")
    if value.tensor.dtype.is_complex and not call.result.dtype.is_complex:
        value = call.emit("real", [value])
    return call.cast(value, call.result.dtype)


@imports("aten.complex.default", "aten.view_as_real.default", "aten.view_as_complex.default")
def complex_(call: Call) -> Value:
    if ".complex." in call.name:
        return call.emit("complex", [call.value("real"), call.value("imag")])
    return call.emit(call.name.split(".")[1], [call.value("self")])


@imports("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.lift_fresh_copy.default",
         "aten.contiguous.default", "aten.lift_fresh.default", "aten.lift.default", "aten.resolve_neg.default",
         "aten.alias_copy.default", "aten.detach_copy.default", "aten.native_dropout.default", "aten.dropout.default",
         "aten.feature_dropout.default", "aten.alpha_dropout.default")
def identity(call: Call) -> Value | list[Value | None]:
    name = call.name.split(".")[1]
    if "dropout" not in name:
        return call.value("self")
    if call["train"] and call["p"]:
        raise Decline("it draws random numbers")
    return [call.value("input"), None] if name == "native_dropout" else call.value("input")
