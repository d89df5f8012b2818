"""Element types, and how each is stored in numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. `bits` is the size of one element; `kind` is float, int, uint, bool or complex.

    `storage` names the numpy dtype that holds the bits: for bf16 and fp8, which numpy lacks, an unsigned
    integer of the same width; for integers of less than 8 bits one byte per element.
    """

    name: str
    bits: int
    kind: str
    storage: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory (integers of less than 8 bits: one byte)."""
        return max(1, self.bits // 8)

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of the storage."""
        return np.dtype(self.storage)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_int(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_complex(self) -> bool:
        return self.kind == "complex"

    @property
    def is_numpy_native(self) -> bool:
        """Whether numpy computes with this type (it does not for bf16, fp8 and integers of less than 8 bits)."""
        return self.name not in ("bf16", "f8e4m3", "f8e5m2", "i4", "i3", "i2", "u4")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


f64 = DType("f64", 64, "float", "float64")
f32 = DType("f32", 32, "float", "float32")
f16 = DType("f16", 16, "float", "float16")
bf16 = DType("bf16", 16, "float", "uint16")
f8e4m3 = DType("f8e4m3", 8, "float", "uint8")
f8e5m2 = DType("f8e5m2", 8, "float", "uint8")
i64 = DType("i64", 64, "int", "int64")
i32 = DType("i32", 32, "int", "int32")
i16 = DType("i16", 16, "int", "int16")
i8 = DType("i8", 8, "int", "int8")
i4 = DType("i4", 4, "int", "int8")
i3 = DType("i3", 3, "int", "int8")
i2 = DType("i2", 2, "int", "int8")
u8 = DType("u8", 8, "uint", "uint8")
u4 = DType("u4", 4, "uint", "uint8")
bool_ = DType("bool", 8, "bool", "bool")
complex64 = DType("complex64", 64, "complex", "complex64")

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (f64, f32, f16, bf16, f8e4m3, f8e5m2, i64, i32, i16, i8, i4, i3, i2, u8, u4, bool_, complex64)
}
STORED_ONLY = frozenset({i4, i3, i2, u4})
"""Types that weights are stored in and nothing is computed in."""

_FROM_NUMPY = {d.numpy: d for d in DTYPES.values() if d.is_numpy_native}


def from_numpy(dtype: np.dtype) -> DType:
    """The element type of a numpy dtype. Raises KeyError for types the IR does not have (uint16, strings ...)."""
    return _FROM_NUMPY[np.dtype(dtype)]


_TORCH_NAMES = {
    "float64": f64, "float32": f32, "float16": f16, "bfloat16": bf16, "float8_e4m3fn": f8e4m3, "float8_e5m2": f8e5m2,
    "int64": i64, "int32": i32, "int16": i16, "int8": i8, "uint8": u8, "bool": bool_, "complex64": complex64,
}
_TO_TORCH_NAMES = {d: n for n, d in _TORCH_NAMES.items()}


def from_torch(dtype: object) -> DType:
    """The element type of a torch.dtype. Raises KeyError for types the IR does not have (complex128, uint16 ...)."""
    return _TORCH_NAMES[str(dtype).removeprefix("torch.")]


def to_torch(dtype: DType) -> Any:
    """The torch.dtype of an element type; integers of less than 8 bits are held in int8 and uint8."""
    import torch

    name = {"i4": "int8", "i3": "int8", "i2": "int8", "u4": "uint8"}.get(dtype.name) or _TO_TORCH_NAMES[dtype]
    return getattr(torch, name)


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """Widen bf16 bits (uint16) to float32; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float32 to bf16 bits (uint16), nearest even; NaN stays NaN."""
    bits = np.asarray(values, dtype=np.float32, order="C").view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
