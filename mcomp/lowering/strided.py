"""Strided views of buffers: shape, strides and offset count elements, and may be symbolic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from mcomp.ir import dims
from mcomp.ir.dims import Dim

if TYPE_CHECKING:
    from typing import Self


class Strided:
    """Base of frozen dataclasses with fields `shape`, `strides` and `offset`. Views change these and move no data."""

    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        """Number of elements that it shows."""
        return dims.product(self.shape)

    def _with(self, **fields: Any) -> Self:
        return cast("Self", replace(cast(Any, self), **fields))

    def is_dense(self, order: Sequence[int] | None = None) -> bool:
        """Whether elements lie without gaps, axes from slowest to fastest as in `order` (default: row-major)."""
        step: Dim = 1
        for axis in reversed(order if order is not None else range(self.rank)):
            if self.shape[axis] == 1:
                continue
            if self.strides[axis] != step:
                return False
            step = dims.mul(step, self.shape[axis])
        return True

    def permute(self, order: Sequence[int]) -> Self:
        """Axis i of the result is axis order[i]."""
        return self._with(shape=tuple(self.shape[a] for a in order), strides=tuple(self.strides[a] for a in order))

    def expand(self, shape: Sequence[Dim]) -> Self:
        """Broadcast by numpy's rules."""
        lead = len(shape) - self.rank
        strides: list[Dim] = [0] * lead
        for old, new, stride in zip(self.shape, shape[lead:], self.strides):
            strides.append(0 if old == 1 and new != 1 else stride)
        return self._with(shape=tuple(shape), strides=tuple(strides))

    def slice(self, axis: int, start: Dim, size: Dim, step: int = 1) -> Self:
        """`size` elements of an axis from `start`, `step` apart."""
        shape, strides = list(self.shape), list(self.strides)
        offset = dims.add(self.offset, dims.mul(start, strides[axis]))
        shape[axis] = size
        strides[axis] = dims.mul(strides[axis], step)
        return self._with(shape=tuple(shape), strides=tuple(strides), offset=offset)

    def select(self, axis: int, index: Dim) -> Self:
        """One index of an axis, which disappears."""
        return self.without((axis,))._with(offset=dims.add(self.offset, dims.mul(index, self.strides[axis])))

    def without(self, axes: Iterable[int]) -> Self:
        """Without some axes, at their index 0."""
        gone = set(axes)
        return self.permute([a for a in range(self.rank) if a not in gone])

    def insert(self, axes: Iterable[int]) -> Self:
        """With axes of size 1 at these positions of the result."""
        shape, strides = list(self.shape), list(self.strides)
        for axis in sorted(axes):
            shape.insert(axis, 1)
            strides.insert(axis, 0)
        return self._with(shape=tuple(shape), strides=tuple(strides))

    def reshape(self, shape: Sequence[Dim]) -> Self | None:
        """The same elements in row-major order under another shape; None when strides cannot say it."""
        if self.is_dense():
            return self._with(shape=tuple(shape), strides=row_major(shape))
        strides = _reshaped_strides(self.shape, self.strides, shape)
        return None if strides is None else self._with(shape=tuple(shape), strides=strides)

    def windows(self, axis: int, step: int, shape: Sequence[Dim]) -> Self:
        """Windows of an axis, `step` apart, of the result's shape: its last axis runs inside of a window."""
        stride = self.strides[axis]
        strides = list(self.strides)
        strides[axis] = dims.mul(stride, step)
        return self._with(shape=tuple(shape), strides=(*strides, stride))

    def diagonal(self, first: int, second: int, offset: int, shape: Sequence[Dim]) -> Self:
        """A diagonal of two axes, `offset` from the main one, which becomes the last axis of the result's shape."""
        start = dims.mul(self.strides[second], offset) if offset >= 0 else dims.mul(self.strides[first], -offset)
        step = dims.add(self.strides[first], self.strides[second])
        rest = self.without((first, second))
        return self._with(shape=tuple(shape), strides=(*rest.strides, step), offset=dims.add(self.offset, start))

    def reversed(self, axes: Iterable[int]) -> Self:
        """Axes from their end to their start: negative strides."""
        strides, offset = list(self.strides), self.offset
        for axis in axes:
            offset = dims.add(offset, dims.mul(strides[axis], dims.add(self.shape[axis], -1)))
            strides[axis] = dims.mul(strides[axis], -1)
        return self._with(strides=tuple(strides), offset=offset)

    def repeated(self, repeats: Sequence[Dim]) -> tuple[Self, tuple[Dim, ...]]:
        """Broadcast so that a copy into the second result, a shape of [r0, d0, r1, d1 ...], repeats it along every axis."""
        split = tuple(size for pair in zip(repeats, self.shape) for size in pair)
        return self.insert(range(0, 2 * self.rank, 2)).expand(split), split


def row_major(shape: Sequence[Dim], order: Iterable[int] | None = None) -> tuple[Dim, ...]:
    """Strides of a dense tensor; `order` lists its axes from slowest to fastest."""
    strides: list[Dim] = [0] * len(shape)
    step: Dim = 1
    for axis in reversed(list(order if order is not None else range(len(shape)))):
        strides[axis] = step
        step = dims.mul(step, shape[axis])
    return tuple(strides)


def _reshaped_strides(shape: Sequence[Dim], strides: Sequence[Dim], target: Sequence[Dim]) -> tuple[Dim, ...] | None:
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
