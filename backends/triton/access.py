"""Where elements lie: buffers, and strided views of them. Sizes, strides and offsets count elements and may be symbolic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType
from mcomp.lowering.strided import Strided, row_major


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
class View(Strided):
    """Elements of a buffer by strides. `dtype` is how they are read."""

    buffer: Buffer
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    def covers(self) -> bool:
        """Whether it is its whole buffer, row-major."""
        return self.offset == 0 and self.is_dense() and self.numel == self.buffer.numel


def dense(buffer: Buffer, shape: Sequence[Dim], order: Sequence[int] | None = None) -> View:
    """The whole buffer under a shape."""
    strides = row_major(shape, order)
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


    def through(self, move: Callable[[View], View]) -> Coded:
        """The value with its parts seen in another way."""
        return Coded(self.type, tuple((name, move(view)) for name, view in self.parts))


Place = View | Coded
