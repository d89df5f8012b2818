"""Checks that the operators' type inference is made of. All raise IRError with what was found and what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.condition import Relation
from mcomp.ir.dims import Dim, Expr
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType

_noted: ContextVar[list[tuple[Relation, Dim, Dim]] | None] = ContextVar("noted", default=None)

Types = Sequence[TensorType | None]
Shape = tuple[Dim, ...]

FLOATS = frozenset({dtypes.f64, dtypes.f32, dtypes.f16, dtypes.bf16})
"""Floating-point types that operators compute in (fp8 is stored, moved and cast only)."""
INTS = frozenset({dtypes.i64, dtypes.i32, dtypes.i16, dtypes.i8, dtypes.u8})
"""Integer types that operators compute in (those of less than 8 bits are stored only)."""
BOOL = frozenset({dtypes.bool_})
COMPLEX = frozenset({dtypes.complex64})
NUMBERS = FLOATS | INTS
ALL = NUMBERS | BOOL | COMPLEX
INDICES = frozenset({dtypes.i64, dtypes.i32})


@contextmanager
def noted_conditions() -> Iterator[list[tuple[Relation, Dim, Dim]]]:
    """What rules leave open about symbolic sizes while this lasts: `a == b`, `a <= b`."""
    found: list[tuple[Relation, Dim, Dim]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def _note(relation: Relation, a: Dim, b: Dim) -> None:
    found = _noted.get()
    if found is not None:
        found.append((relation, a, b))


def present(types: Types, index: int = 0) -> TensorType:
    """The type of an operand that must be there."""
    found = types[index] if index < len(types) else None
    if found is None:
        raise IRError(f"operand {index} is absent")
    return found


def optional(types: Types, index: int) -> TensorType | None:
    """The type of an operand, or None."""
    return types[index] if index < len(types) else None


def given(types: Types, start: int = 0) -> list[TensorType]:
    """The types of repeated operands, all of which must be there."""
    return [present(types, i) for i in range(start, len(types))]


def require_dtype(type: TensorType, allowed: frozenset[DType], what: str = "operand") -> None:
    """The element type must be one of `allowed`."""
    if type.dtype not in allowed:
        names = ", ".join(d for d in dtypes.DTYPES if dtypes.DTYPES[d] in allowed)
        raise IRError(f"{what} is {type.dtype}; accepted: {names}", help="insert a `cast`")


def require_same_dtype(*types: TensorType | None) -> DType:
    """All present operands must have one element type; returns it."""
    found = [t.dtype for t in types if t is not None]
    if any(d != found[0] for d in found):
        raise IRError(
            f"operands of different element types: {', '.join(map(str, found))}", help="insert a `cast`"
        )
    return found[0]


def require_rank(type: TensorType, ranks: Sequence[int], what: str = "operand") -> None:
    """The rank must be one of `ranks`."""
    if type.rank not in ranks:
        raise IRError(f"{what} {type} has rank {type.rank}, not {' or '.join(map(str, ranks))}")


def require_min_rank(type: TensorType, rank: int, what: str = "operand") -> None:
    """The rank must be at least `rank`."""
    if type.rank < rank:
        raise IRError(f"{what} {type} has rank {type.rank}, less than {rank}")


def check_axis(axis: int, rank: int) -> int:
    """An axis must be normalized and in range; returns it."""
    if not 0 <= axis < rank:
        raise IRError(f"axis {axis} is outside of a tensor of rank {rank}")
    return axis


def check_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes must be normalized, in range and different; returns them."""
    for axis in axes:
        check_axis(axis, rank)
    if len(set(axes)) != len(axes):
        raise IRError(f"axes {list(axes)} repeat")
    return tuple(axes)


def never_equal(a: Dim, b: Dim) -> bool:
    """Whether two sizes differ whatever their symbols are, other than all empty."""
    difference = dims.add(a, dims.mul(b, -1))
    if isinstance(difference, int):
        return difference != 0
    signs = {coefficient > 0 for _, coefficient in difference.terms}
    if len(signs) != 1:
        _note("==", a, b)
    return len(signs) == 1


def exceeds(a: Dim, b: Dim) -> bool:
    """Whether a > b whatever the symbols are."""
    difference = dims.add(a, dims.mul(b, -1))
    if isinstance(difference, int):
        return difference > 0
    if not dims.nonnegative(dims.mul(difference, -1)):
        _note("<=", a, b)
    return False


def require_equal(a: Dim, b: Dim, what: str) -> None:
    """Two sizes must not be known to differ."""
    if never_equal(a, b):
        raise IRError(f"{what}: {a} and {b} differ")


def require_same_shape(a: Shape, b: Shape, what: str) -> None:
    """Two shapes must have one rank and no dims known to differ."""
    if len(a) != len(b) or any(never_equal(x, y) for x, y in zip(a, b)):
        raise IRError(f"{what}: {shape_text(a)} and {shape_text(b)} differ")


def require_sizes(shape: Shape, what: str = "shape") -> None:
    """Sizes must not be known to be negative."""
    for d in shape:
        if isinstance(d, int) and d < 0:
            raise IRError(f"{what} {shape_text(shape)} has a negative size")


def merge(a: Dim, b: Dim) -> Dim:
    """One of two sizes taken to be equal: the literal one if there is one, else the first."""
    return b if isinstance(b, int) and isinstance(a, Expr) else a


def broadcast(*shapes: Shape) -> Shape:
    """The shape that numpy's rules give. Only a literal 1 stretches; two symbolic sizes are taken to be equal unless
    they differ by a constant."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for i in range(rank):
        size: Dim = 1
        for shape in shapes:
            at = i - rank + len(shape)
            if at < 0 or shape[at] == 1:
                continue
            if size == 1:
                size = shape[at]
            elif never_equal(size, shape[at]):
                raise IRError(f"shapes {' and '.join(map(shape_text, shapes))} do not broadcast")
            else:
                size = merge(size, shape[at])
        out.append(size)
    return tuple(out)


def broadcasts_to(shape: Shape, target: Shape) -> bool:
    """Whether a shape may stretch to a target of at least its rank."""
    if len(shape) > len(target):
        return False
    tail = target[len(target) - len(shape) :]
    return all(d == 1 or not never_equal(d, t) for d, t in zip(shape, tail))


def reduced_shape(shape: Shape, axes: Sequence[int], keepdim: bool) -> Shape:
    """The shape after reducing some axes."""
    if keepdim:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def one_of(value: str, choices: Sequence[str], what: str) -> str:
    """A word must be one of `choices`; returns it."""
    if value not in choices:
        raise IRError(f"{what} is {value!r}, not {' or '.join(map(repr, choices))}")
    return value


def shape_text(shape: Shape) -> str:
    """A shape as in types: `[B, 3]`."""
    return f"[{', '.join(map(str, shape))}]"
