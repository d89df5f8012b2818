"""What an optimizer is given: tensors with the sizes that rates are in proportion to, and what decays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_LEAST_VECTOR = 2e-2


def parameter_groups(tensors: Mapping[str, Tensor], decay: float) -> list[dict[str, Any]]:
    """A group for each tensor, with the size that rates are in proportion to: at least `_LEAST_VECTOR` for vectors, that for
    logarithms of scales; that of the largest other tensor for a matrix of zeros. Matrices decay; vectors and scales do
    not."""
    sizes = [_size(name, t) for name, t in tensors.items()]
    largest = max(sizes, default=0.0) or 1.0
    return [
        {"params": [t], "weight_decay": decay if t.dim() >= 2 and not _is_scale(name) else 0.0, "size": size or largest}
        for (name, t), size in zip(tensors.items(), sizes)
    ]


def _is_scale(name: str) -> bool:
    """Whether a tensor of this name is the logarithm of what scales of rounding grow by."""
    return name.endswith((":scales", ":scale"))


def _size(name: str, tensor: Tensor) -> float:
    if _is_scale(name):
        return _LEAST_VECTOR
    return _rms(tensor) if tensor.dim() >= 2 else max(_LEAST_VECTOR, _rms(tensor))


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt()) if tensor.numel() else 0.0
