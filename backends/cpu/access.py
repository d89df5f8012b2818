"""Where values live: buffers, and strided accesses to them. Views change the access and move no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.lowering.strided import Strided, row_major

if TYPE_CHECKING:
    from mcomp.backends.cpu.cxx import Size

Kind = Literal["input", "output", "temp", "scratch", "const", "packed"]


@dataclass(eq=False)
class Buffer:
    """A piece of memory; equality is identity.

    kind: `input` and `output` belong to the caller (`index` tells which); `temp` holds an intermediate result, `scratch`
    what one kernel needs while it runs; `const` is an array of the weight store (`source`); `packed` is made once, when
    the code is loaded.
    """

    kind: Kind
    bytes: Size = 0
    index: int = -1
    source: ConstSource | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.index if self.index >= 0 else hex(id(self))}>"


@dataclass(frozen=True)
class ConstSource:
    """An array of a weight: a part by name, or with `decoded` the dense array it means, in its logical type's storage."""

    digest: str
    part: str = "values"
    decoded: bool = False


@dataclass(frozen=True)
class Access(Strided):
    """Elements of a buffer: shape, strides and offset in elements of `dtype`."""

    buffer: Buffer
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    def dense_order(self) -> tuple[int, ...] | None:
        """The order of axes in which the elements lie without gaps, row-major where several do; None when there is none."""
        rest = [a for a in range(self.rank) if self.shape[a] != 1]
        order: list[int] = []
        step: Dim = 1
        while rest:
            found = next((a for a in reversed(rest) if self.strides[a] == step), None)
            if found is None:
                return None
            order.insert(0, found)
            rest.remove(found)
            step = dims.mul(step, self.shape[found])
        return merge_order(order, self.rank)


def dense(buffer: Buffer, dtype: DType, shape: Sequence[Dim], order: Sequence[int] | None = None) -> Access:
    """An access to all of a dense buffer."""
    return Access(buffer, dtype, tuple(shape), row_major(shape, order))


def whole_buffer(buffer: Buffer) -> Access:
    """All of a buffer, whatever it holds."""
    from mcomp.ir.dtypes import u8

    return Access(buffer, u8, (0,), (1,))


def merge_order(order: Sequence[int], rank: int) -> tuple[int, ...]:
    """An order of some axes completed by the others (of size 1), row-major as far as that is free."""
    out = list(order)
    for axis in range(rank):
        if axis not in out:
            at = next((i for i, a in enumerate(out) if a > axis), len(out))
            out.insert(at, axis)
    return tuple(out)


def bytes_of(dtype: DType, count: Dim) -> Dim:
    """Bytes of `count` stored elements."""
    return dims.mul(count, dtype.itemsize)


def aligned_bytes(count: int, alignment: int = 64) -> np.ndarray:
    """An uninitialized uint8 array whose first byte is aligned."""
    raw = np.empty(count + alignment, dtype=np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + count]

