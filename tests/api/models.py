"""Small models that the tests of the front door share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


class Net(nn.Module):
    """Two linear layers and an optional factor: f32[..., 16] -> f32[..., 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 32)
        self.head = nn.Linear(32, 4)
        self.note = "forwarded"

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        h = self.fc1(x).relu()
        if scale is not None:
            h = h * scale
        return self.head(h)


@dataclass
class Answer:
    """A result with names."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Structured(nn.Module):
    """Gives its two results in the container that `form` names."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        h = x * 2
        y = self.fc(h)
        forms = {"tuple": (y, h), "dict": {"y": y, "h": h}, "dataclass": Answer(y, h), "nested": [y, {"h": (h,)}]}
        return forms[self.form]


class Wide(nn.Module):
    """Two layers large enough that int8 pays in bytes, with a deliberately sensitive `head`: f32[B, 64] -> f32[B, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def wide() -> Wide:
    torch.manual_seed(0)
    return Wide().eval()


def batches(count: int = 4, width: int = 64) -> list[tuple[torch.Tensor]]:
    """Calibration batches of 8 rows."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, width, generator=generator),) for _ in range(count)]
