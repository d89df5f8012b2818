"""Where elements lie: buffers, and strided views of them. Sizes, strides and offsets count elements and may be symbolic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class ConstSource:
    """A constant as kernels want it: part of a weight by digest, in a form that `constants.py` makes once."""

    digest: str
    part: str = "values"
    form: str = "plain"


@dataclass(eq=False)
class Buffer:
    """Memory of one kind: `input` and `output` (by index), `const` (by source), `temp` (a place in the pool), `torch`
    (whatever a torch operator returned)."""

    kind: str
    dtype: DType
    numel: Dim
    index: int = 0
    source: ConstSource | None = None

    @property
    def nbytes(self) -> Dim:
        """Bytes it takes."""
        return dims.mul(self.numel, self.dtype.itemsize)


@dataclass(frozen=True)
class View:
    """Elements of a buffer by strides. `dtype` is how they are read."""

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
        """Number of elements it shows."""
        return dims.product(self.shape)

    def is_dense(self, order: Sequence[int] | None = None) -> bool:
        """Whether the elements lie without gaps with axes from slowest to fastest as in `order` (default: row-major)."""
        step: Dim = 1
        for axis in reversed(order if order is not None else range(self.rank)):
            if self.shape[axis] == 1:
                continue
            if self.strides[axis] != step:
                return False
            step = dims.mul(step, self.shape[axis])
        return True

    def covers(self) -> bool:
        """Whether it is its whole buffer, row-major."""
        return self.offset == 0 and self.is_dense() and self.numel == self.buffer.numel

    def permute(self, order: Sequence[int]) -> View:
        return replace(self, shape=tuple(self.shape[i] for i in order), strides=tuple(self.strides[i] for i in order))

    def expand(self, shape: Sequence[Dim]) -> View:
        """Broadcast to a shape by numpy's rules."""
        added = len(shape) - self.rank
        strides: list[Dim] = [0] * added
        for size, stride, wanted in zip(self.shape, self.strides, shape[added:]):
            strides.append(0 if size == 1 and wanted != 1 else stride)
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def slice(self, axis: int, start: Dim, size: Dim, step: int = 1) -> View:
        shape, strides = list(self.shape), list(self.strides)
        offset = dims.add(self.offset, dims.mul(strides[axis], start))
        shape[axis], strides[axis] = size, dims.mul(strides[axis], step)
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)

    def without(self, axes: Iterable[int]) -> View:
        """Without some axes, of which index 0 is shown."""
        gone = set(axes)
        kept = [i for i in range(self.rank) if i not in gone]
        return replace(self, shape=tuple(self.shape[i] for i in kept), strides=tuple(self.strides[i] for i in kept))

    def select(self, axis: int, index: Dim) -> View:
        return self.slice(axis, index, 1).without((axis,))

    def insert(self, axes: Iterable[int]) -> View:
        """With axes of size 1 at these places of the result."""
        places = set(axes)
        sizes, steps = iter(self.shape), iter(self.strides)
        rank = self.rank + len(places)
        shape = tuple(1 if i in places else next(sizes) for i in range(rank))
        strides: tuple[Dim, ...] = tuple(0 if i in places else next(steps) for i in range(rank))
        return replace(self, shape=shape, strides=strides)

    def reshape(self, shape: Sequence[Dim]) -> View | None:
        """The elements in row-major order under another shape, where strides can say that."""
        if self.is_dense():
            return replace(self, shape=tuple(shape), strides=row_major(shape))
        strides: list[Dim] = []
        at = 0
        old = [(d, s) for d, s in zip(self.shape, self.strides) if d != 1]
        wanted = list(shape)
        i = 0
        while i < len(wanted):
            if wanted[i] == 1:
                strides.append(0)
                i += 1
                continue
            if at >= len(old):
                return None
            # One run of new axes for one run of old axes with as many elements.
            j, k = i + 1, at + 1
            new_count, old_count = wanted[i], old[at][0]
            while new_count != old_count:
                if _divides(new_count, old_count) and j < len(wanted):
                    new_count, j = dims.mul(new_count, wanted[j]), j + 1
                elif k < len(old):
                    if old[k - 1][1] != dims.mul(old[k][0], old[k][1]):
                        return None
                    old_count, k = dims.mul(old_count, old[k][0]), k + 1
                elif j < len(wanted):
                    new_count, j = dims.mul(new_count, wanted[j]), j + 1
                else:
                    return None
            step = old[k - 1][1]
            run: list[Dim] = []
            for size in reversed(wanted[i:j]):
                run.append(0 if size == 1 else step)
                step = dims.mul(step, size)
            strides += reversed(run)
            i, at = j, k
        return None if at < len(old) else replace(self, shape=tuple(shape), strides=tuple(strides))


def _divides(small: Dim, large: Dim) -> bool:
    if isinstance(small, int) and isinstance(large, int):
        return small < large
    return dims.mod(large, small) == 0 and large != small if small != 0 else False


def row_major(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides without gaps, last axis fastest."""
    return ordered_strides(shape, range(len(shape)))


def ordered_strides(shape: Sequence[Dim], order: Iterable[int]) -> tuple[Dim, ...]:
    """Strides without gaps, axes from slowest to fastest as in `order`."""
    strides: list[Dim] = [0] * len(shape)
    step: Dim = 1
    for axis in reversed(list(order)):
        strides[axis] = step
        step = dims.mul(step, shape[axis])
    return tuple(strides)


def dense(buffer: Buffer, shape: Sequence[Dim], order: Sequence[int] | None = None) -> View:
    """The whole buffer under a shape."""
    strides = row_major(shape) if order is None else ordered_strides(shape, order)
    return View(buffer, buffer.dtype, tuple(shape), strides)


@dataclass(frozen=True)
class Coded:
    """Where an encoded value is: a view for each part of its encoding."""

    type: TensorType
    parts: tuple[tuple[str, View], ...]

    def part(self, name: str) -> View | None:
        """The view of a part, or None where the encoding has no such part."""
        return dict(self.parts).get(name)

    @property
    def values(self) -> View:
        """The view of the stored values."""
        return dict(self.parts)["values"]


Place = View | Coded
