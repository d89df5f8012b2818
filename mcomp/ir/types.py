"""Types of values: tensors and scalars."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Encoding


@dataclass(frozen=True, slots=True)
class Layout:
    """How a backend lays out a tensor: `order` lists the axes from slowest to fastest; `block` splits the fastest
    axis into pieces of that many elements stored together (1: not blocked).

    A type without a layout is row-major contiguous.
    """

    order: tuple[int, ...]
    block: int = 1

    def __str__(self) -> str:
        text = "layout<" + ",".join(map(str, self.order))
        return text + (f"; block={self.block}>" if self.block != 1 else ">")


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor: shape (ints and symbolic dims), logical element type, encoding, layout."""

    shape: tuple[Dim, ...]
    dtype: DType
    encoding: Encoding = DENSE
    layout: Layout | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        """Number of elements."""
        return dims.product(self.shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes of all buffers of the encoding."""
        return self.encoding.nbytes(self)

    @property
    def is_static(self) -> bool:
        """Whether every dim is an int."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints. Raises TypeError when a dim is symbolic."""
        if not self.is_static:
            raise TypeError(f"{self} has symbolic dims")
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def symbols(self) -> frozenset[str]:
        """Symbols that occur in the shape."""
        return frozenset().union(*(dims.symbols(d) for d in self.shape))

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return replace(self, shape=tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return replace(self, dtype=dtype)

    def with_encoding(self, encoding: Encoding) -> TensorType:
        return replace(self, encoding=encoding)

    def dense(self) -> TensorType:
        """The same tensor, decoded, row-major."""
        return TensorType(self.shape, self.dtype)

    def __str__(self) -> str:
        text = f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        if self.encoding != DENSE:
            text += f" {self.encoding}"
        if self.layout is not None:
            text += f" {self.layout}"
        return text


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A number that is no tensor: i64, f64 or bool."""

    dtype: DType

    def __str__(self) -> str:
        return f"scalar<{self.dtype}>"


Type = TensorType | ScalarType
