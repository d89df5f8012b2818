"""Element-wise operators. Each is described by a row: operands, accepted element types, result, work, torch's name.

Operands broadcast together and have one element type (promotion is explicit, by `cast`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Operand, Tolerance, operands, register, total_bytes
from mcomp.ops.rules import (
    ALL,
    BOOL,
    COMPLEX,
    FLOATS,
    INTS,
    NUMBERS,
    broadcast,
    one_of,
    optional,
    present,
    require_dtype,
    require_same_dtype,
    shape_text,
)

Meaning = Callable[..., Any]


class ElementWise(Op):
    """An operator whose result at an index depends on the operands at that index alone.

    Operands broadcast together. Backends read `accepts` (element types of the operands), `result` (`same` element
    type, `bool`, or `real`: f32 for complex64, else the same) and `flops` (per result element).
    """

    accepts: ClassVar[frozenset[DType]] = FLOATS
    result: ClassVar[str] = "same"
    flops: ClassVar[int] = 1

    @property
    def arity(self) -> int:
        """Number of operands, optional ones included."""
        return len(type(self).operands)

    def result_dtype(self, dtype: DType) -> DType:
        """Element type of the result for that of the operands."""
        if self.result == "bool":
            return dtypes.bool_
        return dtypes.f32 if self.result == "real" and dtype.is_complex else dtype

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        found = [t for t in types if t is not None]
        dtype = require_same_dtype(*found)
        require_dtype(found[0], self.accepts)
        return (TensorType(broadcast(*(t.shape for t in found)), self.result_dtype(dtype)),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        work = dims.mul(results[0].numel, self.flops)
        return Cost(work, total_bytes(types), total_bytes(results))


def define(
    name: str, doc: str, *, over: str = "x", accepts: frozenset[DType] = FLOATS, result: str = "same", flops: int = 1,
    exact: bool = False, attrs: tuple[Attr, ...] = (), torch: str | None = None, meaning: Meaning | None = None,
    module: str = __name__,
) -> type[ElementWise]:
    """Make and register an element-wise operator.

    `over`: operand names. `torch`: dotted name of the function in torch, when it takes the operands and is not called
    `name`. `meaning(torch, attrs, *tensors)`: where one function of torch does not say it. `module`: the family.
    Tolerance: `exact`, or by work: rounding for at most 4 flops, else approximate.
    """
    path = torch or name

    def reference(self: ElementWise, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        if meaning is not None:
            return meaning(torch, attrs, *inputs)
        return attrgetter(path)(torch)(*inputs)

    tolerance = Tolerance.EXACT if exact else Tolerance.ROUNDING if flops <= 4 else Tolerance.APPROXIMATE
    spec: tuple[Operand, ...] = operands(*over.split())
    members = {
        "__doc__": doc, "__module__": module, "name": name, "operands": spec, "attrs": attrs, "accepts": accepts,
        "result": result, "flops": flops, "tolerance": tolerance, "reference": reference,
    }
    return register(type("".join(word.capitalize() for word in name.split("_")), (ElementWise,), members))


_NATURAL = FLOATS | COMPLEX
_WHOLE = INTS | BOOL
_ORDERED = NUMBERS | BOOL

define("neg", "-x; integers wrap.", accepts=NUMBERS | COMPLEX, exact=True)
define("abs", "|x|; f32 for complex64. The smallest integer stays.", accepts=NUMBERS | COMPLEX, result="real",
       exact=True)
define("sign", "-1, 0 or 1 by the sign of x. NaN gives 0.", accepts=_ORDERED, exact=True)
define("floor", "The largest whole number not above x.", accepts=NUMBERS, exact=True)
define("ceil", "The smallest whole number not below x.", accepts=NUMBERS, exact=True)
define("trunc", "x rounded towards zero.", accepts=NUMBERS, exact=True)
define("round", "x rounded to `decimals` places after the point, halves to even.", accepts=NUMBERS,
       flops=2, attrs=(Attr("decimals", "int", 0),), meaning=lambda torch, a, x: (
           torch.round(x, decimals=a["decimals"]) if a["decimals"] else torch.round(x)))
define("frac", "x - trunc(x).", flops=2)
define("sqrt", "The square root; NaN below zero.", accepts=_NATURAL, flops=2)
define("rsqrt", "1 / sqrt(x).", accepts=_NATURAL, flops=4)
define("reciprocal", "1 / x.", accepts=_NATURAL)
define("square", "x * x.", accepts=NUMBERS | COMPLEX)
for _name, _doc, _accepts in (
    ("exp", "e to the power x.", _NATURAL), ("exp2", "2 to the power x.", _NATURAL),
    ("expm1", "exp(x) - 1, precise near 0.", _NATURAL), ("log", "The natural logarithm.", _NATURAL),
    ("log2", "The logarithm to base 2.", _NATURAL), ("log10", "The logarithm to base 10.", _NATURAL),
    ("log1p", "log(1 + x), precise near 0.", _NATURAL), ("sin", "The sine of x radians.", _NATURAL),
    ("cos", "The cosine of x radians.", _NATURAL), ("tan", "The tangent of x radians.", _NATURAL),
    ("asin", "The arc sine; NaN outside of [-1, 1].", _NATURAL),
    ("acos", "The arc cosine; NaN outside of [-1, 1].", _NATURAL), ("atan", "The arc tangent.", _NATURAL),
    ("sinh", "The hyperbolic sine.", _NATURAL), ("cosh", "The hyperbolic cosine.", _NATURAL),
    ("tanh", "The hyperbolic tangent.", _NATURAL), ("asinh", "The inverse of sinh.", _NATURAL),
    ("acosh", "The inverse of cosh; NaN below 1.", _NATURAL),
    ("atanh", "The inverse of tanh; NaN outside of [-1, 1].", _NATURAL),
    ("sigmoid", "1 / (1 + exp(-x)).", _NATURAL), ("erf", "The error function.", FLOATS),
    ("erfc", "1 - erf(x), precise for large x.", FLOATS), ("erfinv", "The inverse of erf.", FLOATS),
    ("lgamma", "The logarithm of |gamma(x)|.", FLOATS), ("digamma", "The derivative of lgamma.", FLOATS),
):
    define(_name, _doc, accepts=_accepts, flops=10)

define("logical_not", "not x.", accepts=BOOL, exact=True)
define("bitwise_not", "Every bit of x inverted; `not` for bool.", accepts=_WHOLE, exact=True)
define("isnan", "Whether x is not a number.", accepts=ALL, result="bool", exact=True)
define("isinf", "Whether x is an infinity.", accepts=ALL, result="bool", exact=True)
define("isfinite", "Whether x is neither NaN nor an infinity.", accepts=ALL, result="bool", exact=True)
define("real", "The real part: complex64 to f32.", accepts=COMPLEX, result="real", exact=True)
define("imag", "The imaginary part: complex64 to f32.", accepts=COMPLEX, result="real", exact=True)
define("angle", "The argument of a complex number, in radians; 0, pi or NaN for floats.", accepts=_NATURAL,
       result="real", flops=10)
define("conj", "The complex conjugate.", accepts=COMPLEX, exact=True, torch="conj_physical")

define("add", "a + b; integers wrap, `or` for bool.", over="a b", accepts=ALL)
define("sub", "a - b; integers wrap.", over="a b", accepts=NUMBERS | COMPLEX)
define("mul", "a * b; integers wrap, `and` for bool.", over="a b", accepts=ALL)
define("remainder", "a - b * floor(a / b): has the sign of b.", over="a b", accepts=NUMBERS, flops=3)
define("fmod", "a - b * trunc(a / b): has the sign of a.", over="a b", accepts=NUMBERS, flops=3)
define("pow", "a to the power b. Whole numbers to a negative power give 0, but 1 or -1 for the base 1 or -1.",
       over="a b", accepts=NUMBERS | COMPLEX, flops=20)
define("maximum", "The larger; NaN if either is.", over="a b", accepts=_ORDERED, exact=True)
define("minimum", "The smaller; NaN if either is.", over="a b", accepts=_ORDERED, exact=True)
define("fmax", "The larger; the other where one is NaN.", over="a b", accepts=_ORDERED, exact=True)
define("fmin", "The smaller; the other where one is NaN.", over="a b", accepts=_ORDERED, exact=True)
define("atan2", "The angle of the point (b, a), in radians.", over="a b", flops=15)
define("hypot", "sqrt(a*a + b*b) without overflow on the way.", over="a b", flops=5)
define("copysign", "The magnitude of a with the sign of b.", over="a b", exact=True)
define("nextafter", "The number next to a in the direction of b.", over="a b", accepts=FLOATS, exact=True)
define("xlogy", "a * log(b), and 0 where a is 0 unless b is NaN.", over="a b", flops=11)
define("heaviside", "0 below, 1 above zero; b where a is 0; 0 where a is NaN.", over="a b", accepts=_ORDERED,
       exact=True)
define("logaddexp", "log(exp(a) + exp(b)) without overflow.", over="a b", flops=22)
for _name, _doc, _accepts in (
    ("eq", "a == b.", ALL), ("ne", "a != b.", ALL), ("lt", "a < b.", _ORDERED), ("le", "a <= b.", _ORDERED),
    ("gt", "a > b.", _ORDERED), ("ge", "a >= b.", _ORDERED),
):
    define(_name, f"{_doc} False where either is NaN." if _name != "ne" else f"{_doc} True where either is NaN.",
           over="a b", accepts=_accepts, result="bool", exact=True)
for _name in ("and", "or", "xor"):
    define(f"logical_{_name}", f"a {_name} b.", over="a b", accepts=BOOL, exact=True)
    define(f"bitwise_{_name}", f"{_name} of every bit.", over="a b", accepts=_WHOLE, exact=True)
define("shift_left", "a * 2**b for 0 <= b < bits; the bits that leave are lost.", over="a b", accepts=INTS, exact=True,
       torch="bitwise_left_shift")
define("shift_right", "floor(a / 2**b) for 0 <= b < bits.", over="a b", accepts=INTS, exact=True,
       torch="bitwise_right_shift")
define("lerp", "a + weight * (b - a).", over="a b weight", accepts=_NATURAL, flops=3)


@register
class Div(ElementWise):
    """a / b; with `rounding` "floor" or "trunc" the quotient is made whole. Integers need a rounding."""

    name = "div"
    operands = operands("a", "b")
    attrs = (Attr("rounding", "str", "none"),)
    accepts = NUMBERS | COMPLEX
    tolerance = Tolerance.ROUNDING

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        rounding = one_of(attrs["rounding"], ("none", "floor", "trunc"), "rounding")
        require_dtype(present(types), _NATURAL if rounding == "none" else NUMBERS)
        return super().infer(types, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        rounding = attrs["rounding"]
        return torch.div(inputs[0], inputs[1], rounding_mode=None if rounding == "none" else rounding)


@register
class Where(ElementWise):
    """a where the condition (bool) holds, else b. a and b have one element type, any."""

    name = "where"
    operands = operands("condition", "a", "b")
    accepts = frozenset(dtypes.DTYPES.values())
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        condition, a, b = present(types), present(types, 1), present(types, 2)
        require_dtype(condition, BOOL, "condition")
        dtype = require_same_dtype(a, b)
        return (TensorType(broadcast(condition.shape, a.shape, b.shape), dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.where(*inputs)


@register
class Clamp(ElementWise):
    """x raised to `low`, then lowered to `high`; each may be absent. NaN in any operand gives NaN."""

    name = "clamp"
    operands = operands("x", "low?", "high?")
    accepts = NUMBERS
    flops = 2
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        if optional(types, 1) is None and optional(types, 2) is None:
            raise IRError("clamp needs `low`, `high` or both")
        return super().infer(types, attrs)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        x, low, high = (*inputs, None, None)[:3]
        raised = x if low is None else torch.maximum(x, low)
        return raised if high is None else torch.minimum(raised, high)


@register
class Cast(ElementWise):
    """x as another element type. Floats round to nearest even, become whole towards zero, and true unless zero; what
    does not fit an integer type is undefined. Complex to real drops the imaginary part."""

    name = "cast"
    operands = operands("x")
    attrs = (Attr("dtype", "dtype"),)
    accepts = frozenset(dtypes.DTYPES.values()) - dtypes.STORED_ONLY
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, self.accepts)
        if attrs["dtype"] not in self.accepts:
            raise IRError(f"nothing can be cast to {attrs['dtype']}")
        return (TensorType(x.shape, attrs["dtype"]),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        (x,) = inputs
        target = dtypes.to_torch(attrs["dtype"])
        real = x.real if x.is_complex() and attrs["dtype"].kind != "bool" and not attrs["dtype"].is_complex else x
        return real.to(target)


@register
class Complex(ElementWise):
    """The complex64 number real + i * imag of two f32 tensors of one shape."""

    name = "complex"
    operands = operands("real", "imag")
    accepts = frozenset({dtypes.f32})
    flops = 0
    tolerance = Tolerance.EXACT

    def result_dtype(self, dtype: DType) -> DType:
        return dtypes.complex64

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.complex(*torch.broadcast_tensors(*inputs))


@register
class ViewAsReal(Op):
    """complex64[*S] as f32[*S, 2]: real and imaginary parts along a new last axis."""

    name = "view_as_real"
    operands = operands("x")
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, COMPLEX)
        return (TensorType((*x.shape, 2), dtypes.f32),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(0, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.view_as_real(inputs[0].resolve_conj())


@register
class ViewAsComplex(Op):
    """f32[*S, 2] as complex64[*S]: the inverse of `view_as_real`."""

    name = "view_as_complex"
    operands = operands("x")
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, frozenset({dtypes.f32}))
        if not x.shape or x.shape[-1] != 2:
            raise IRError(f"the last axis of {shape_text(x.shape)} must be 2")
        return (TensorType(x.shape[:-1], dtypes.complex64),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(0, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.complex(inputs[0][..., 0], inputs[0][..., 1])
