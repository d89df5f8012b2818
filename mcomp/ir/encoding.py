"""How the elements of a tensor are stored: dense, affine (integers), scaled (floats of 8 bits), n:m or block sparse.

An encoding is part of a tensor's type. The type's dtype stays the logical one (`f32`); the encoding tells which
buffers hold it, how many bytes they take and how they decode. Operators keep their meaning: an operator on an
encoded operand means "decode, then compute".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType

if TYPE_CHECKING:
    from mcomp.ir.types import TensorType

Parts = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Buffer:
    """One array of an encoded tensor: shape and element type."""

    shape: tuple[Dim, ...]
    dtype: DType

    @property
    def nbytes(self) -> Dim:
        """Bytes; elements of less than 8 bits lie without gaps."""
        bits = dims.mul(dims.product(self.shape), self.dtype.bits)
        return dims.ceildiv(bits, 8)


@dataclass(frozen=True, slots=True)
class Encoding(ABC):
    """Base of encodings."""

    @abstractmethod
    def buffers(self, type: TensorType) -> dict[str, Buffer]:
        """The arrays that hold a tensor of this type, by part name; `values` is always among them."""

    def nbytes(self, type: TensorType) -> Dim:
        """Bytes of all buffers."""
        total: Dim = 0
        for buffer in self.buffers(type).values():
            total = dims.add(total, buffer.nbytes)
        return total

    @abstractmethod
    def decode(self, parts: Parts, type: TensorType) -> np.ndarray:
        """The dense array (float32 for bf16, fp16 and fp8 types) that the parts mean."""

    def feasible(self, type: TensorType) -> str | None:
        """Why a tensor of this type cannot have this encoding; None when it can."""
        return None


@dataclass(frozen=True, slots=True)
class Dense(Encoding):
    """Every element, in order."""

    def buffers(self, type: TensorType) -> dict[str, Buffer]:
        return {"values": Buffer(type.shape, type.dtype)}

    def decode(self, parts: Parts, type: TensorType) -> np.ndarray:
        values = parts["values"]
        if type.dtype is dtypes.bf16:
            return dtypes.bf16_to_f32(values)
        if type.dtype in (dtypes.f8e4m3, dtypes.f8e5m2):
            return _decode_fp8(values, type.dtype)
        if type.dtype is dtypes.f16:
            return values.astype(np.float32)
        return values

    def __str__(self) -> str:
        return "dense"


DENSE = Dense()

_INTEGER_RANGE = {
    "i8": (-128, 127), "u8": (0, 255), "i4": (-8, 7), "i3": (-4, 3), "i2": (-2, 1), "u4": (0, 15),
}

_LARGEST = {"f8e4m3": 448.0, "f8e5m2": 57344.0}
"""OCP 8-bit floating point specification, table 1."""


def _axis_text(axis: tuple[int, ...]) -> str:
    return "axis=" + (str(axis[0]) if len(axis) == 1 else str(list(axis)))


@dataclass(frozen=True, slots=True)
class Affine(Encoding):
    """Integers q with real value `scale * (q - zero)`.

    `axis`: axes along which scales vary (one scale per index; empty: one for the tensor). `group`: along the last
    axis, one scale per `group` consecutive elements instead. `zero_point`: whether zero points are stored (as i32,
    same shape as scales). `scale`, `zero`: known when compiling, for the whole tensor, so that no buffer holds them.
    """

    dtype: DType = dtypes.i8
    axis: tuple[int, ...] = ()
    group: int | None = None
    zero_point: bool = False
    scale: float | None = None
    zero: int = 0

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest integer of the storage type."""
        return _INTEGER_RANGE[self.dtype.name]

    def scale_shape(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Shape of the scales: broadcastable against `shape` (for groups, the last axis counts groups)."""
        out: list[Dim] = [d if i in self.axis else 1 for i, d in enumerate(shape)]
        if self.group is not None:
            out[-1] = dims.floordiv(shape[-1], self.group)
        return tuple(out)

    def buffers(self, type: TensorType) -> dict[str, Buffer]:
        found = {"values": Buffer(type.shape, self.dtype)}
        if self.scale is None:
            found["scales"] = Buffer(self.scale_shape(type.shape), dtypes.f32)
            if self.zero_point:
                found["zeros"] = Buffer(self.scale_shape(type.shape), dtypes.i32)
        return found

    def decode(self, parts: Parts, type: TensorType) -> np.ndarray:
        values = parts["values"].astype(np.float32)
        if self.scale is not None:
            return ((values - np.float32(self.zero)) * np.float32(self.scale)).astype(np.float32)
        zeros = parts["zeros"].astype(np.float32) if self.zero_point else np.float32(self.zero)
        scales = parts["scales"]
        if self.group is None:
            return (values - zeros) * scales
        grouped = values.reshape(*values.shape[:-1], -1, self.group)
        zeros = zeros[..., None] if isinstance(zeros, np.ndarray) else zeros
        return ((grouped - zeros) * scales[..., None]).reshape(values.shape)

    def feasible(self, type: TensorType) -> str | None:
        if not type.dtype.is_float:
            return f"{type.dtype} is not a floating-point type"
        if self.dtype.name not in _INTEGER_RANGE:
            return f"{self.dtype} is not one of {', '.join(_INTEGER_RANGE)}"
        if any(not 0 <= a < len(type.shape) for a in self.axis):
            return f"axis {self.axis} is outside of a tensor of rank {len(type.shape)}"
        if self.group is None:
            return None
        if not type.shape:
            return "a scalar has no groups"
        if self.group < 1:
            return f"a group of {self.group} holds nothing"
        if dims.mod(type.shape[-1], self.group) != 0:
            return f"group {self.group} does not divide {type.shape[-1]}"
        return None

    def __str__(self) -> str:
        fields = [str(self.dtype)]
        if self.axis:
            fields.append(_axis_text(self.axis))
        if self.group is not None:
            fields.append(f"group={self.group}")
        if self.zero_point:
            fields.append("zero_point=true")
        if self.scale is not None:
            fields.append(f"scale={self.scale!r}")
        if self.zero:
            fields.append(f"zero={self.zero}")
        return f"affine<{', '.join(fields)}>"


@dataclass(frozen=True, slots=True)
class Scaled(Encoding):
    """Floats f of 8 bits with real value `scale * f`.

    `axis`: axes along which scales vary (one scale per index; empty: one for the tensor). `scale`: known when compiling,
    for the whole tensor, so that no buffer holds it.
    """

    dtype: DType = dtypes.f8e4m3
    axis: tuple[int, ...] = ()
    scale: float | None = None

    @property
    def largest(self) -> float:
        """The largest number of the storage type."""
        return _LARGEST[self.dtype.name]

    def scale_shape(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Shape of the scales: broadcastable against `shape`."""
        return tuple(d if i in self.axis else 1 for i, d in enumerate(shape))

    def buffers(self, type: TensorType) -> dict[str, Buffer]:
        found = {"values": Buffer(type.shape, self.dtype)}
        if self.scale is None:
            found["scales"] = Buffer(self.scale_shape(type.shape), dtypes.f32)
        return found

    def decode(self, parts: Parts, type: TensorType) -> np.ndarray:
        scales = parts["scales"] if self.scale is None else np.float32(self.scale)
        return np.asarray(_decode_fp8(parts["values"], self.dtype) * scales, np.float32)

    def feasible(self, type: TensorType) -> str | None:
        if not type.dtype.is_float or type.dtype.bits < 16:
            return f"{type.dtype} is not a floating-point type of at least 16 bits"
        if self.dtype.name not in _LARGEST:
            return f"{self.dtype} is not one of {', '.join(_LARGEST)}"
        if any(not 0 <= a < len(type.shape) for a in self.axis):
            return f"axis {self.axis} is outside of a tensor of rank {len(type.shape)}"
        return None

    def __str__(self) -> str:
        fields = [str(self.dtype)]
        if self.axis:
            fields.append(_axis_text(self.axis))
        if self.scale is not None:
            fields.append(f"scale={self.scale!r}")
        return f"scaled<{', '.join(fields)}>"


@dataclass(frozen=True, slots=True)
class NM(Encoding):
    """At most `n` of every `m` consecutive elements of the last axis are stored (2:4).

    Buffers: `values` with last axis shortened by n/m, `indices` (u8, position in the group of m). `inner` encodes the
    stored values.
    """

    n: int = 2
    m: int = 4
    inner: Encoding = field(default=DENSE)

    def _kept(self, type: TensorType) -> TensorType:
        last = dims.mul(dims.floordiv(type.shape[-1], self.m), self.n)
        return type.with_shape((*type.shape[:-1], last)).with_encoding(self.inner)

    def buffers(self, type: TensorType) -> dict[str, Buffer]:
        kept = self._kept(type)
        return {**self.inner.buffers(kept), "indices": Buffer(kept.shape, dtypes.u8)}

    def decode(self, parts: Parts, type: TensorType) -> np.ndarray:
        kept = self.inner.decode(parts, self._kept(type))
        lead = kept.shape[:-1]
        groups = kept.reshape(*lead, -1, self.n)
        out = np.zeros((*groups.shape[:-1], self.m), dtype=kept.dtype)
        np.put_along_axis(out, parts["indices"].reshape(groups.shape).astype(np.int64), groups, axis=-1)
        return out.reshape(*lead, -1)

    def feasible(self, type: TensorType) -> str | None:
        if not 0 < self.n <= self.m <= 256:
            return f"{self.n} of every {self.m} elements cannot be kept"
        if not isinstance(self.inner, (Dense, Affine)):
            return f"the stored values cannot be {self.inner}"
        if not type.shape or dims.mod(type.shape[-1], self.m) != 0:
            return f"{self.m} does not divide the last axis of {list(type.shape)}"
        return self.inner.feasible(self._kept(type))

    def __str__(self) -> str:
        return f"nm<{self.n}, {self.m}{_inner_text(self.inner)}>"


@dataclass(frozen=True, slots=True)
class BlockSparse(Encoding):
    """A matrix [rows, columns] (perhaps with more axes of size 1, as the weight of a 1x1 convolution has) of which only some
    blocks are stored.

    Buffers: `values` [blocks, block_rows, block_columns], `columns` (i32, block column of each block, ascending within
    a block row), `rows` (i32, [rows/block_rows + 1], where each block row starts). `count` is the number of blocks.
    `inner` must be dense, or affine with scales per row of the matrix (`axis=0`).
    """

    block: tuple[int, int] = (1, 1)
    count: int = 0
    inner: Encoding = field(default=DENSE)

    def buffers(self, type: TensorType) -> dict[str, Buffer]:
        stored = type.dtype
        extra: dict[str, Buffer] = {}
        if isinstance(self.inner, Affine):
            stored = self.inner.dtype
            extra = {k: v for k, v in self.inner.buffers(type).items() if k != "values"}
        return {
            "values": Buffer((self.count, *self.block), stored),
            "columns": Buffer((self.count,), dtypes.i32),
            "rows": Buffer((dims.add(dims.floordiv(type.shape[0], self.block[0]), 1),), dtypes.i32),
            **extra,
        }

    def decode(self, parts: Parts, type: TensorType) -> np.ndarray:
        rows, columns = (int(dims.evaluate(d, {})) for d in type.shape[:2])
        block_rows, block_columns = self.block
        values = parts["values"]
        dense = np.zeros((rows // block_rows, columns // block_columns, block_rows, block_columns), values.dtype)
        owner = np.repeat(np.arange(rows // block_rows), np.diff(parts["rows"]))
        dense[owner, parts["columns"]] = values
        matrix = dense.transpose(0, 2, 1, 3).reshape(type.static_shape)
        return self.inner.decode({**parts, "values": matrix}, type.with_encoding(self.inner))

    def feasible(self, type: TensorType) -> str | None:
        if min(self.block) < 1 or self.count < 0:
            return f"{self.count} blocks of {self.block[0]}x{self.block[1]} are no blocks"
        if not isinstance(self.inner, (Dense, Affine)) or (isinstance(self.inner, Affine) and self.inner.group):
            return f"the stored values cannot be {self.inner}"
        if len(type.shape) < 2 or any(d != 1 for d in type.shape[2:]):
            return f"block sparsity needs a matrix, not {list(type.shape)}"
        if any(dims.mod(d, b) != 0 for d, b in zip(type.shape, self.block)):
            return f"blocks of {self.block[0]}x{self.block[1]} do not tile {list(type.shape)}"
        return self.inner.feasible(type.with_encoding(self.inner))

    def __str__(self) -> str:
        return f"blocksparse<{self.block[0]}, {self.block[1]}, count={self.count}{_inner_text(self.inner)}>"


def _inner_text(inner: Encoding) -> str:
    return "" if inner == DENSE else f", {inner}"


def _decode_fp8(bits: np.ndarray, dtype: DType) -> np.ndarray:
    """OCP FP8: e4m3fn (bias 7, no infinity, NaN at all ones) and e5m2 (bias 15, IEEE-like)."""
    exponent_bits, bias = (4, 7) if dtype is dtypes.f8e4m3 else (5, 15)
    mantissa_bits = 7 - exponent_bits
    raw = bits.astype(np.int32)
    sign = np.where(raw & 0x80, -1.0, 1.0)
    exponent = (raw >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = raw & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    normal = np.ldexp(1.0 + fraction, exponent - bias)
    subnormal = np.ldexp(fraction, 1 - bias)
    out = sign * np.where(exponent == 0, subnormal, normal)
    if dtype is dtypes.f8e4m3:
        return np.where((raw & 0x7F) == 0x7F, np.nan, out).astype(np.float32)
    special = exponent == 31
    out = np.where(special & (mantissa == 0), sign * np.inf, out)
    return np.where(special & (mantissa != 0), np.nan, out).astype(np.float32)


def quantize_array(
    values: np.ndarray, encoding: Affine, *, scales: np.ndarray | None = None, zeros: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Encode a float array with given scales (default: symmetric, largest magnitude maps to the largest integer).

    Returns the parts of `encoding`. Rounds to nearest even and saturates. A zero range gets scale 1.
    """
    low, high = encoding.range
    data = np.asarray(values, dtype=np.float32)
    shape = data.shape
    if encoding.group is not None:
        data = data.reshape(*shape[:-1], -1, encoding.group)
    chosen: np.ndarray
    if encoding.scale is not None:
        chosen = np.asarray(encoding.scale, np.float32)
    elif scales is not None:
        chosen = scales[..., None] if encoding.group is not None else scales
    else:
        over = (data.ndim - 1,) if encoding.group is not None else tuple(
            i for i in range(data.ndim) if i not in encoding.axis
        )
        if encoding.group is not None:
            over += tuple(i for i in range(data.ndim - 2) if i not in encoding.axis)
        magnitude = np.max(np.abs(data), axis=over, keepdims=True, initial=0.0)
        smallest = np.finfo(np.float32).tiny
        chosen = np.where(magnitude == 0, 1.0, np.maximum(magnitude / high, smallest)).astype(np.float32)
    zero: np.ndarray | np.float32
    if encoding.zero_point and zeros is not None:
        zero = (zeros[..., None] if encoding.group is not None else zeros).astype(np.float32)
    else:
        zero = np.float32(encoding.zero)
    q = np.clip(np.rint(data / chosen) + zero, low, high).astype(encoding.dtype.numpy).reshape(shape)
    parts = {"values": q}
    if encoding.scale is None:
        parts["scales"] = np.asarray(chosen, np.float32).reshape(_static(encoding.scale_shape(shape)))
        if encoding.zero_point:
            parts["zeros"] = (
                np.asarray(zeros, np.int32).reshape(_static(encoding.scale_shape(shape)))
                if zeros is not None else np.zeros(_static(encoding.scale_shape(shape)), np.int32)
            )
    return parts


def _static(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(dims.evaluate(d, {}) for d in shape)
