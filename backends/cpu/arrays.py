"""Arrays of callers: torch tensors and numpy arrays alike, by address."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mcomp.ir.dtypes import DType


def contiguous(array: Any) -> Any:
    """The array, or a row-major copy of it; lazily conjugated or negated tensors are resolved."""
    if isinstance(array, np.ndarray):
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)
    if array.is_conj() or array.is_neg():
        array = array.resolve_conj().resolve_neg()
    return array if array.is_contiguous() else array.contiguous()


def address(array: Any) -> int:
    """Where the first element is."""
    return int(array.ctypes.data) if isinstance(array, np.ndarray) else int(array.data_ptr())


def empty(shape: Sequence[int], dtype: DType, *, numpy: bool) -> Any:
    """A fresh uninitialized array; numpy ones hold bf16 and fp8 as their bits."""
    if numpy:
        return np.empty(tuple(shape), dtype.numpy)
    import torch

    from mcomp.ir.dtypes import to_torch

    kind: Any = to_torch(dtype)
    return torch.empty(tuple(shape), dtype=kind)


def as_tensor(array: Any, dtype: DType, shape: Sequence[int]) -> Any:
    """A torch tensor over the same memory, of this type and shape: the first elements, where there are more."""
    from mcomp.ir.dtypes import to_torch
    from mcomp.ops.encoded import tensor_of

    count = math.prod(shape)
    if isinstance(array, np.ndarray):
        return tensor_of(array.reshape(-1).view(dtype.numpy)[:count].reshape(tuple(shape)), dtype)
    flat, wanted = array.reshape(-1), to_torch(dtype)
    return (flat if flat.dtype == wanted else flat.view(wanted))[:count].reshape(tuple(shape))


def as_numpy(array: Any) -> np.ndarray:
    """A numpy array over the same memory."""
    from mcomp.ops.encoded import array_of

    return array if isinstance(array, np.ndarray) else array_of(array)
