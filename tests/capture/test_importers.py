"""Operators of torch, a family at a time: none becomes opaque, and the numbers are torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.zoo_check import Interpreted, compare
from mcomp.capture import capture
from tests.capture.importer_cases import FAMILIES, Function


class Family(nn.Module):
    """Applies functions to shared inputs; see `importer_cases`."""

    def __init__(self, functions: list[Function]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Any, y: Any, i: Any, m: Any, p: Any) -> list[Any]:
        return [function(x, y, i, m, p) for function in self.functions]


def inputs(batch: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    x, y = torch.randn(batch, 4, 6, generator=generator), torch.randn(batch, 4, 6, generator=generator)
    i = torch.randint(0, 4, (batch, 4), generator=generator)
    return x, y, i, torch.rand(batch, 4, 6, generator=generator) > 0.4, x.abs() * 0.9 + 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    model = Family(FAMILIES[family]).eval()
    found = capture(model, inputs(3))
    assert found.program is not None, found.eager
    assert not found.program.opaque
    assert compare(model, Interpreted(found.program), inputs(3), {}) <= 1e-5
    assert compare(model, Interpreted(found.program), inputs(5), {}) <= 1e-5


RECURRENT = [
    nn.LSTM(6, 5, 2, bidirectional=True),
    nn.LSTM(6, 5, proj_size=3, batch_first=True),
    nn.GRU(6, 5, bias=False),
    nn.RNN(6, 5, nonlinearity="relu", batch_first=True),
    nn.LSTMCell(6, 5),
    nn.GRUCell(6, 5),
]


@pytest.mark.parametrize("layer", RECURRENT, ids=lambda layer: type(layer).__name__)
def test_recurrent_layers(layer: nn.Module) -> None:
    example = inputs(3)[0][:, 0] if "Cell" in type(layer).__name__ else inputs(3)[0]
    found = capture(layer.eval(), (example,))
    assert found.program is not None and not found.program.opaque
    assert compare(layer, Interpreted(found.program), (example,), {}) <= 1e-5


class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
        self.fc = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale = x.mean()
        return self.fc(self.conv(x)) * scale


def test_parametrized_weights_and_regions_without_gradients() -> None:
    model, x = WeightNormed().eval(), inputs(3)[0]
    found = capture(model, (x,))
    assert found.program is not None and not found.program.opaque
    assert compare(model, Interpreted(found.program), (inputs(4)[0],), {}) <= 1e-5
