"""More inputs from few: changes of a minibatch that keep it an input of its kind. The teacher says what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Augment = Callable[[list[Any]], Sequence[Any]]
"""Takes the tensors of a minibatch, returns changed ones of the same shapes. Randomness comes from torch's generator,
which is seeded for each use."""

_SHIFT = 4
_NOISE = 0.3


def mix(inputs: list[Any]) -> list[Any]:
    """Each sample moved up to half the way to another one (mixup without labels, Zhang et al. 2018)."""
    rows = int(inputs[0].shape[0])
    other = torch.randperm(rows)
    share = 0.5 * torch.rand(rows)
    return [x + share.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype) * (x[other] - x) for x in inputs]


def noise(inputs: list[Any]) -> list[Any]:
    """Normal noise of a random size up to 0.3 standard deviations of the input."""
    return [x + _NOISE * torch.rand(()) * x.float().std().to(x.dtype) * torch.randn_like(x) for x in inputs]


def images(inputs: list[Any]) -> list[Any]:
    """Images [N, C, H, W] mirrored left to right, half of them, and shifted by up to 4 pixels (an eighth of their size where
    that is less), edges filled with zeros."""
    return [_shifted(x) for x in inputs]


def _shifted(x: Tensor) -> Tensor:
    mirrored = torch.where((torch.rand(x.shape[0]) < 0.5).reshape(-1, 1, 1, 1), x.flip(-1), x)
    reach = max(1, min(_SHIFT, min(x.shape[-2:]) // 8))
    height, width = x.shape[-2:]
    padded = functional.pad(mirrored, [reach] * 4)
    down, right = torch.randint(0, 2 * reach + 1, (2, x.shape[0])).tolist()
    return torch.stack([p[:, a : a + height, b : b + width] for p, a, b in zip(padded, down, right)])


NAMED: dict[str, Augment] = {"mix": mix, "noise": noise, "images": images}


def augmentation(asked: str | Augment) -> Augment:
    """An augmentation by name, or the function itself."""
    return NAMED[asked] if isinstance(asked, str) else asked


def misfit(asked: str | Augment, inputs: Sequence[Tensor]) -> str | None:
    """Why a named augmentation does not fit inputs; None when it does."""
    if not isinstance(asked, str):
        return None
    if not all(x.is_floating_point() for x in inputs):
        return f"augment={asked} is for floating-point inputs"
    if asked == "images" and any(x.dim() != 4 for x in inputs):
        return "augment=images is for inputs of rank 4"
    return None
