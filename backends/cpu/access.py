"""Where values live: buffers, and strided accesses to them. Views change the access and move no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType

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
class Access:
    """Elements of a buffer: shape, strides and offset in elements of `dtype`."""

    buffer: Buffer
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return dims.product(self.shape)

    def is_contiguous(self, order: Sequence[int] | None = None) -> bool:
        """Whether elements lie without gaps, axes from slowest to fastest as in `order` (default: row-major)."""
        step: Dim = 1
        for axis in reversed(order if order is not None else range(self.rank)):
            if self.shape[axis] == 1:
                continue
            if self.strides[axis] != step:
                return False
            step = dims.mul(step, self.shape[axis])
        return True

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

    def permute(self, order: Sequence[int]) -> Access:
        """Axis i of the result is axis order[i]."""
        return replace(
            self, shape=tuple(self.shape[a] for a in order), strides=tuple(self.strides[a] for a in order)
        )

    def expand(self, shape: Sequence[Dim]) -> Access:
        """Broadcast by numpy's rules."""
        lead = len(shape) - self.rank
        strides: list[Dim] = [0] * lead
        for old, new, stride in zip(self.shape, shape[lead:], self.strides):
            strides.append(0 if old == 1 and new != 1 else stride)
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def slice(self, axis: int, start: Dim, size: Dim, step: int) -> Access:
        """`size` elements of an axis from `start`, `step` apart."""
        shape, strides = list(self.shape), list(self.strides)
        offset = dims.add(self.offset, dims.mul(start, strides[axis]))
        shape[axis] = size
        strides[axis] = dims.mul(strides[axis], step)
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)

    def select(self, axis: int, index: Dim) -> Access:
        """One index of an axis, which disappears."""
        offset = dims.add(self.offset, dims.mul(index, self.strides[axis]))
        return replace(self.without((axis,)), offset=offset)

    def without(self, axes: Sequence[int]) -> Access:
        """Without some axes, at their index 0."""
        keep = [a for a in range(self.rank) if a not in axes]
        return self.permute(keep)

    def insert(self, axes: Sequence[int]) -> Access:
        """With axes of size 1 at these positions of the result."""
        shape, strides = list(self.shape), list(self.strides)
        for axis in sorted(axes):
            shape.insert(axis, 1)
            strides.insert(axis, 0)
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def reshape(self, shape: Sequence[Dim]) -> Access | None:
        """The same elements in row-major order under another shape; None when strides cannot say it."""
        if self.is_contiguous():
            return replace(self, shape=tuple(shape), strides=row_major(shape))
        strides = _reshaped_strides(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=tuple(shape), strides=strides)


def row_major(shape: Sequence[Dim], order: Sequence[int] | None = None) -> tuple[Dim, ...]:
    """Strides of a dense tensor; `order` lists its axes from slowest to fastest."""
    strides: list[Dim] = [0] * len(shape)
    step: Dim = 1
    for axis in reversed(order if order is not None else range(len(shape))):
        strides[axis] = step
        step = dims.mul(step, shape[axis])
    return tuple(strides)


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


def _reshaped_strides(
    shape: Sequence[Dim], strides: Sequence[Dim], target: Sequence[Dim]
) -> tuple[Dim, ...] | None:
    """Strides of the target shape, by splitting runs of axes that lie without gaps between them."""
    runs: list[tuple[Dim, Dim]] = []  # (size, stride of the innermost axis)
    for size, stride in zip(shape, strides):
        if size == 1:
            continue
        if runs and runs[-1][1] == dims.mul(stride, size):
            runs[-1] = (dims.mul(runs[-1][0], size), stride)
        else:
            runs.append((size, stride))
    out: list[Dim] = []
    run = len(runs) - 1
    used: Dim = 1
    for size in reversed(target):
        if size == 1:
            out.append(0)
            continue
        if run >= 0 and used == runs[run][0]:
            run -= 1
            used = 1
        if run < 0:
            return None
        out.append(dims.mul(runs[run][1], used))
        used = dims.mul(used, size)
        left = dims.floordiv(runs[run][0], used) if used != 0 else 0
        if dims.mul(left, used) != runs[run][0]:
            return None
    if run > 0 or (run == 0 and used != runs[0][0]):
        return None
    return tuple(reversed(out))


def bytes_of(dtype: DType, count: Dim) -> Dim:
    """Bytes of `count` stored elements."""
    return dims.mul(count, dtype.itemsize)


def aligned_bytes(count: int, alignment: int = 64) -> np.ndarray:
    """An uninitialized uint8 array whose first byte is aligned."""
    raw = np.empty(count + alignment, dtype=np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + count]

