"""What can be known about a value without running the graph: one number, a range, the sign of its zeros."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import numpy as np

from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Expr
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Node, Value
from mcomp.ir.store import Weight, WeightStore
from mcomp.ir.types import TensorType

Number = int | float | bool | complex

_RESHAPING = frozenset({
    "reshape", "permute", "expand", "squeeze", "unsqueeze", "contiguous", "slice", "select", "flip", "repeat",
    "repeat_interleave", "roll",
})
"""Operators whose result holds only elements of their operand."""
_LARGEST_UNIFORM = 1 << 16
_DEPTH = 24
_uniform: WeakKeyDictionary[WeightStore, dict[str, Number | None]] = WeakKeyDictionary()
_extremes: WeakKeyDictionary[WeightStore, dict[str, tuple[float, float] | None]] = WeakKeyDictionary()


def number_of(value: Value) -> Number | None:
    """The number that every element of a value is, as its element type holds it; None when not known to be one."""
    for _ in range(_DEPTH):
        node = value.producer
        if node is None:
            return None
        if node.op.name == "full":
            found = node.attrs["value"]
            return None if isinstance(found, Expr) else as_held(found, node.attrs["dtype"])
        if node.op.name == "const":
            return _uniform_constant(value)
        if node.op.name not in _RESHAPING or node.operands[0] is None:
            return None
        value = node.operands[0]
    return None


def as_held(number: Number, dtype: DType) -> Number:
    """A number as an element type holds it: rounded to the type's precision."""
    if dtype.kind == "bool":
        return bool(number)
    if dtype.is_complex:
        return complex(np.complex64(number))
    if isinstance(number, complex):
        number = number.real
    if dtype.is_int:
        return int(number)
    if dtype == dtypes.bf16:
        return float(dtypes.bf16_to_f32(dtypes.f32_to_bf16(np.array([number], np.float32)))[0])
    if dtype in (dtypes.f32, dtypes.f16):
        with np.errstate(over="ignore"):
            return float(dtype.numpy.type(number))
    return float(number)


_SMALLEST_NORMAL = {"f16": 2.0**-14, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}


def smallest_normal(dtype: DType) -> float:
    """The smallest positive number that an element type holds with all its digits; 0 for integers."""
    return _SMALLEST_NORMAL.get(dtype.name, 0.0)


def shortest(number: Number, dtype: DType) -> float:
    """The shortest decimal number that an element type rounds to this one: 1e-05 rather than 9.999999747378752e-06."""
    assert not isinstance(number, complex)
    return float(str(np.float32(number))) if dtype == dtypes.f32 else float(number)


def _uniform_constant(value: Value) -> Number | None:
    weight = value.weight
    if weight is None or weight.type.encoding != DENSE:
        return None
    known = _uniform.setdefault(value.graph.store.root, {})
    if weight.digest not in known:
        known[weight.digest] = _uniform_weight(weight)
    return known[weight.digest]


def _uniform_weight(weight: Weight) -> Number | None:
    size = dims.evaluate(weight.type.numel, {})
    if not 0 < size <= _LARGEST_UNIFORM:
        return None
    values = weight.decode().reshape(-1)
    bits = values.view(np.uint8).reshape(size, -1)
    if (bits != bits[0]).any():
        return None
    found: Number = values[0].item()
    return found


Interval = tuple[float, float] | None
_Found = dict[tuple[Value, int], Interval]
"""Bounds that were found already, by value and how deep to look."""


def interval(value: Value) -> Interval:
    """Bounds of all elements, which are then known not to be NaN; None when unknown. Sound, not tight."""
    return _interval(value, _DEPTH, {})


def _interval(value: Value, depth: int, found: _Found) -> Interval:
    if (value, depth) not in found:
        found[value, depth] = _bounds(value, depth, found)
    return found[value, depth]


def _bounds(value: Value, depth: int, found: _Found) -> Interval:
    node = value.producer
    if node is None or depth == 0 or not isinstance(value.type, TensorType):
        return (0.0, 1.0) if _is_bool(value) else None
    name = node.op.name
    if name == "const":
        return _constant_interval(value)
    if name == "full":
        number = number_of(value)
        if number is None or isinstance(number, complex) or math.isnan(number):
            return None
        return (float(number), float(number))
    if name in _RESHAPING:
        return _interval(node.operand(0), depth - 1, found)
    known = _computed(node, name, depth - 1, found)
    if known is None and _is_bool(value):
        return (0.0, 1.0)
    return known


def _is_bool(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.kind == "bool"


def _constant_interval(value: Value) -> Interval:
    weight = value.weight
    if weight is None or weight.type.encoding != DENSE or weight.type.dtype.is_complex:
        return None
    known = _extremes.setdefault(value.graph.store.root, {})
    if weight.digest not in known:
        data = weight.decode()
        known[weight.digest] = None
        if data.size and not (weight.type.dtype.is_float and np.isnan(data).any()):
            known[weight.digest] = (float(data.min()), float(data.max()))
    return known[weight.digest]


_KNOWN = {"exp": (0.0, math.inf), "sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0),
          "erf": (-1.0, 1.0), "sin": (-1.0, 1.0), "cos": (-1.0, 1.0)}


def _computed(node: Node, name: str, depth: int, found: _Found) -> Interval:
    if node.results[0].tensor.dtype.is_complex:
        return None
    given = [None if v is None else _interval(v, depth, found) for v in node.operands]
    if name == "where":
        a, b = given[1], given[2]
        return None if a is None or b is None else (min(a[0], b[0]), max(a[1], b[1]))
    if name == "cat" and given:
        known = [g for g in given if g is not None]
        return (min(g[0] for g in known), max(g[1] for g in known)) if len(known) == len(given) else None
    if not given or given[0] is None:
        return None
    low, high = given[0]
    if name == "cast":
        return _cast_interval(low, high, node.attrs["dtype"])
    if name in _KNOWN:
        return _KNOWN[name] if (math.isfinite(low) and math.isfinite(high)) or name == "sigmoid" else None
    dtype = node.results[0].tensor.dtype
    if name == "neg":
        return _held((-high, -low), dtype)
    if name in ("amax", "amin"):
        return (low, high) if math.isfinite(low) and math.isfinite(high) else None
    if name in ("square", "abs"):
        top = max(abs(low), abs(high))
        return _held((0.0, top * top if name == "square" else top), dtype)
    if name in ("add", "sub", "mul") and given[1] is not None:
        return _arithmetic(name, (low, high), given[1], dtype)
    return None


def _cast_interval(low: float, high: float, dtype: DType) -> Interval:
    if dtype.kind == "bool":
        return (0.0, 1.0)
    if dtype.is_float or not (math.isfinite(low) and math.isfinite(high)):
        return _held((low, high), dtype)
    return _held((math.trunc(low), math.trunc(high)), dtype)


def _held(bounds: tuple[float, float], dtype: DType) -> Interval:
    """Bounds as an element type holds them: rounded; None where they wrap around, and for types that are only stored."""
    if dtype.name in ("f64", "f32", "f16", "bf16"):
        first, last = (as_held(b, dtype) for b in bounds)
        return (float(first.real), float(last.real))
    if not dtype.is_int:
        return None
    low, high = (0.0, 2.0**dtype.bits) if dtype.kind == "uint" else (-(2.0 ** (dtype.bits - 1)), 2.0 ** (dtype.bits - 1))
    return bounds if low <= bounds[0] and bounds[1] < high else None


def _arithmetic(
    name: str, a: tuple[float, float], b: tuple[float, float], dtype: DType
) -> Interval:
    if not all(map(math.isfinite, (*a, *b))):
        return None
    if name == "add":
        found = (a[0] + b[0], a[1] + b[1])
    elif name == "sub":
        found = (a[0] - b[1], a[1] - b[0])
    else:
        products = [x * y for x in a for y in b]
        found = (min(products), max(products))
    return _held(found, dtype)


def is_finite(value: Value) -> bool:
    """Whether every element is known to be neither NaN nor an infinity."""
    known = interval(value)
    return known is not None and math.isfinite(known[0]) and math.isfinite(known[1])


def never_negative_zero(value: Value) -> bool:
    """Whether no element can be -0.0: integers, casts from them, magnitudes, exponentials, numbers. Small negative numbers
    may be -0.0 after a cast."""
    if not isinstance(value.type, TensorType):
        return False
    if not (value.type.dtype.is_float or value.type.dtype.is_complex):
        return True
    node = value.producer
    if node is None:
        return False
    if node.op.name == "cast":
        number = number_of(node.operand(0))
        if isinstance(number, float):
            return math.copysign(1.0, number) > 0
        return never_negative_zero(node.operand(0))
    if node.op.name in _RESHAPING:
        return never_negative_zero(node.operand(0))
    if node.op.name in ("exp", "exp2", "sigmoid", "softmax", "abs", "cosh"):
        return True
    known = number_of(value)
    if known is not None and not isinstance(known, complex):
        return known != 0 or math.copysign(1.0, known) > 0
    return False


_IGNORE_SIGN = frozenset({
    "softmax", "log_softmax", "exp", "exp2", "cos", "cosh", "abs", "square", "eq", "ne", "lt", "le", "gt", "ge",
    "sigmoid", "isnan", "isinf", "isfinite", "softplus", "logical_not", "logsumexp",
})


def zero_sign_matters(value: Value) -> bool:
    """Whether some user could tell -0.0 from 0.0."""
    return any(node.op.name not in _IGNORE_SIGN for node in value.users)


Ramp = tuple[int, int, int] | None


def ramp(value: Value, depth: int = _DEPTH) -> Ramp:
    """For integers start, start + step, ... along one axis and constant along the others: (axis counted from the end,
    start, step); None when not known to be so."""
    node = value.producer
    if node is None or depth == 0 or not isinstance(value.type, TensorType):
        return None
    name = node.op.name
    if name == "arange" and value.type.dtype.is_int:
        start, step = node.attrs["start"], node.attrs["step"]
        return (-1, start, step) if isinstance(start, int) and isinstance(step, int) else None
    if name == "const":
        return _constant_ramp(value)
    if name == "cast" and value.type.dtype.is_int:
        return ramp(node.operand(0), depth - 1)
    if name in ("reshape", "squeeze", "unsqueeze", "expand", "contiguous"):
        return _moved_ramp(node, ramp(node.operand(0), depth - 1))
    return _shifted_ramp(node, depth - 1) if name == "add" else None


def _shifted_ramp(node: Node, depth: int) -> Ramp:
    for i in (0, 1):
        shift, other = number_of(node.operand(i)), node.operand(1 - i)
        if not isinstance(shift, int) or isinstance(shift, bool):
            continue
        base = ramp(other, depth)
        if base is not None and other.tensor.shape[base[0]] == node.type.shape[base[0]]:
            return (base[0], base[1] + shift, base[2])
    return None


def _constant_ramp(value: Value) -> Ramp:
    shape, weight = value.tensor.shape, value.weight
    axes = [i for i, d in enumerate(shape) if d != 1]
    if weight is None or not value.tensor.dtype.is_int or len(axes) != 1 or weight.type.encoding != DENSE:
        return None
    data = weight.decode().reshape(-1)
    if not 1 < data.size <= _LARGEST_UNIFORM:
        return None
    start, step = int(data[0]), int(data[1]) - int(data[0])
    if (data != np.arange(data.size) * step + start).any():
        return None
    return (axes[0] - len(shape), start, step)


def _moved_ramp(node: Node, base: Ramp) -> Ramp:
    if base is None:
        return None
    before, after = node.operand(0).tensor.shape, node.type.shape
    size = before[base[0]]
    if node.op.name == "expand":
        return base if after[base[0]] == size else None
    if size == 1 or any(d != 1 for i, d in enumerate(before) if i != len(before) + base[0]):
        return None
    places = [i for i, d in enumerate(after) if d != 1]
    return (places[0] - len(after), base[1], base[2]) if len(places) == 1 and after[places[0]] == size else None
