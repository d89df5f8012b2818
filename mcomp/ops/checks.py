"""Checks for operators whose operands have parts of their own (weight, bias, mask ...): errors call them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType
from mcomp.ops.rules import merge, never_equal


def present(types: Sequence[TensorType | None], index: int, name: str) -> TensorType:
    """The type of an operand that must be there."""
    found = types[index] if index < len(types) else None
    if found is None:
        raise IRError(f"the operand `{name}` is missing")
    return found


def differ(a: Dim, b: Dim) -> bool:
    """Whether two dims differ by a constant. Weaker than `never_equal`, for dims that may be 0, such as remainders."""
    difference = dims.add(a, dims.mul(b, -1))
    return isinstance(difference, int) and difference != 0


def need_rank(type: TensorType, name: str, low: int, high: int | None = None) -> None:
    """Raise IRError unless the rank is `low`, or between `low` and `high` (a `high` of -1 is no limit)."""
    if high is None and type.rank != low:
        raise IRError(f"{name} has rank {type.rank}, not {low}")
    if type.rank < low or (high is not None and 0 <= high < type.rank):
        raise IRError(f"{name} has rank {type.rank}, not {low} {f'to {high}' if high and high > 0 else 'or more'}")


def need_dim(type: TensorType, name: str, axis: int, size: Dim, what: str) -> None:
    """Raise IRError when a size is certainly not what it must be; `what` says where that comes from."""
    if differ(type.shape[axis], size):
        raise IRError(f"{name} has {type.shape[axis]} along axis {axis % type.rank}, but {what} is {size}")


def need_vector(type: TensorType | None, name: str, size: Dim, what: str) -> None:
    """Raise IRError unless an optional operand is absent or a vector of this size."""
    if type is None:
        return
    need_rank(type, name, 1)
    need_dim(type, name, 0, size, what)


def same_dtype(types: Mapping[str, TensorType | None]) -> None:
    """Raise IRError unless all present operands have one element type."""
    given = {name: t.dtype for name, t in types.items() if t is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in given.items())
        raise IRError(f"the element types differ: {listed}", help="cast the operands to one type")


def need_float(type: TensorType, name: str) -> None:
    """Raise IRError unless the element type is a floating-point one that operators compute in (fp8 is
    only stored)."""
    if not type.dtype.is_float or type.dtype.bits < 16:
        raise IRError(f"{name} is {type.dtype}, not f64, f32, f16 or bf16", help="cast it")


def broadcast(shapes: Mapping[str, tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """`rules.broadcast` for named operands: raises IRError naming those that do not fit."""
    rank = max((len(s) for s in shapes.values()), default=0)
    out: list[Dim] = [1] * rank
    source = [""] * rank
    for name, shape in shapes.items():
        for i, d in enumerate(shape, rank - len(shape)):
            if isinstance(out[i], int) and out[i] == 1:
                out[i], source[i] = d, name
            elif d != 1 and never_equal(out[i], d):
                raise IRError(f"{source[i]} and {name} do not broadcast: {out[i]} against {d} along axis {i}")
            elif d != 1:
                out[i] = merge(out[i], d)
    return tuple(out)


def stored_elements(type: TensorType) -> Dim:
    """How many elements of a tensor its encoding stores: fewer than it has for sparse encodings."""
    return dims.product(type.encoding.buffers(type)["values"].shape)


def per_axis(value: Any, count: int, name: str, low: int) -> tuple[int, ...]:
    """An attribute with one integer per spatial axis, none below `low`. Raises IRError."""
    if len(value) != count:
        raise IRError(f"{name} has {len(value)} entries for {count} spatial axes")
    for v in value:
        if v < low:
            raise IRError(f"{name} is {v}, but must be at least {low}")
    return tuple(value)


def padding_pairs(value: Any, count: int) -> tuple[tuple[int, int], ...]:
    """The attribute `padding` as (low, high) per spatial axis. Raises IRError."""
    fits = isinstance(value, tuple) and len(value) == count and all(
        isinstance(p, tuple) and len(p) == 2 and all(isinstance(v, int) and v >= 0 for v in p) for p in value
    )
    if not fits:
        raise IRError(f"padding is {value!r}, not a [low, high] pair of numbers >= 0 for each of {count} spatial axes")
    return tuple(value)
