"""C++ text: types, numbers and sizes. Only what is formatted here from numbers reaches generated source."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mcomp.ir.dims import Dim, Symbol
from mcomp.ir.dtypes import DType

TYPES: dict[str, str] = {
    "f64": "double", "f32": "float", "f16": "f16", "bf16": "bf16", "f8e4m3": "fp8_e4m3", "f8e5m2": "fp8_e5m2",
    "i64": "int64_t", "i32": "int32_t", "i16": "int16_t", "i8": "int8_t", "i4": "int8_t", "i3": "int8_t", "i2": "int8_t",
    "u8": "uint8_t", "u4": "uint8_t", "bool": "bool", "complex64": "complex64",
}
"""C++ types of stored elements."""
SIGNED_BYTES = frozenset({"i8", "i4", "i3", "i2"})
"""Signed integers that lie in memory one to a byte."""

_NARROW = frozenset({"f16", "bf16", "f8e4m3", "f8e5m2"})


@dataclass(frozen=True, slots=True)
class Computed:
    """A size that only the C++ side knows: an expression with `{0}`, `{1}` ... for dims and `workers` for the number of
    workers. The text is the backend's own."""

    text: str
    dims: tuple[Dim, ...] = ()


@dataclass(frozen=True, slots=True)
class Real:
    """A floating-point parameter, handed over as its bits in an int64."""

    value: float


Size = Dim | Computed


def c_type(dtype: DType) -> str:
    """The C++ type of a stored element."""
    return TYPES[dtype.name]


def register_type(dtype: DType) -> str:
    """The C++ type that an element is computed in: float for the narrow floating-point types."""
    return "float" if dtype.name in _NARROW else TYPES[dtype.name]


def is_narrow(dtype: DType) -> bool:
    """Whether elements are widened to float to compute with them."""
    return dtype.name in _NARROW


def literal(value: complex, dtype: DType) -> str:
    """A number as a C++ expression of the type that `dtype` is computed in."""
    target = register_type(dtype)
    if isinstance(value, complex):
        return f"complex64{{{literal(value.real, _f32())}, {literal(value.imag, _f32())}}}"
    if dtype.kind == "bool":
        return "true" if value else "false"
    if dtype.is_float:
        return _float_literal(float(value), target)
    if dtype.is_complex:
        return f"complex64{{{literal(float(value), _f32())}, 0.0f}}"
    return f"{target}({integer(_wrap(int(value), dtype))})"


def integer(value: int) -> str:
    """An int64 literal."""
    if value == -(2**63):
        return "INT64_MIN"
    return f"INT64_C({value})" if abs(value) >= 2**31 else str(value)


def _f32() -> DType:
    from mcomp.ir.dtypes import f32

    return f32


def _float_literal(value: float, target: str) -> str:
    if math.isnan(value):
        return f"std::numeric_limits<{target}>::quiet_NaN()"
    if math.isinf(value):
        sign = "-" if value < 0 else ""
        return f"({sign}std::numeric_limits<{target}>::infinity())"
    if target == "float":
        import numpy as np

        with np.errstate(over="ignore"):
            rounded = float(np.float32(value))
        if math.isinf(rounded):
            return _float_literal(rounded, target)
        return f"({rounded.hex()}f)" if rounded != int(rounded) or abs(rounded) > 1e6 else f"({int(rounded)}.0f)" \
            if rounded or math.copysign(1.0, rounded) > 0 else "(-0.0f)"
    return f"({value.hex()})"


def _wrap(value: int, dtype: DType) -> int:
    span = 1 << dtype.bits
    value %= span
    return value - span if dtype.kind == "int" and value >= span // 2 else value


def dim_text(dim: Dim, symbols: Mapping[str, int]) -> str:
    """A dim as a C++ expression over `sym[i]`."""
    if isinstance(dim, int):
        return integer(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [integer(coefficient)] if coefficient != 1 or not monomial else []
        for atom, power in monomial:
            if isinstance(atom, Symbol):
                text = f"sym[{symbols[atom.name]}]"
            else:
                a, b = (dim_text(x, symbols) for x in atom.args)
                text = f"dim_{atom.function}({a}, {b})"
            factors += [text] * power
        terms.append("*".join(factors))
    return "(" + " + ".join(terms) + ")"


def size_text(size: Size, symbols: Mapping[str, int]) -> str:
    """A size as a C++ expression."""
    if isinstance(size, Computed):
        return size.text.format(*(dim_text(d, symbols) for d in size.dims))
    return dim_text(size, symbols)


def comment(text: str) -> str:
    """Text that may stand in a comment: everything but letters, digits, `_`, `.` and blanks is replaced."""
    return re.sub(r"[^A-Za-z0-9_. ]", "_", text)[:120]
