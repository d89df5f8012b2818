"""Which calibration batches show what sizes vary, however arguments are nested."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.plan.build import _SHOWN, _telling


class Nested(nn.Module):
    """One layer over the last axis of what is in a dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, inputs: dict[str, list[torch.Tensor]], scale: torch.Tensor | None = None) -> torch.Tensor:
        y = self.fc(inputs["x"][0])
        return y if scale is None else y * scale


def x(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, 16, generator=torch.Generator().manual_seed(0))


def nested(*sizes: int) -> tuple[dict[str, list[torch.Tensor]]]:
    return ({"x": [x(*sizes)]},)


@pytest.mark.parametrize("shapes", [
    [(2, 3, 5), (2, 4, 5), (2, 4, 7)],
    [(2, 3, 5), (2, 3, 5), *((2, n, 5) for n in range(4, 10)), (2, 3, 6)],
])
@pytest.mark.parametrize("flat", [False, True])
def test_sizes_that_vary_in_any_batch_are_symbolic(shapes: list[tuple[int, ...]], flat: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 4).eval() if flat else Nested().eval()
    calls: list[tuple[Any, ...]] = [(x(*s),) if flat else nested(*s) for s in shapes]
    fast = mcomp.optimize(
        model, calls[0], calibration=calls, pipeline="quantize{bits=8}", target="reference", progress=False,
    )
    for call in calls:
        with torch.no_grad():
            torch.testing.assert_close(fast(*call), model(*call), atol=0.1, rtol=0.1)


def test_few_calls_are_taken() -> None:
    model = Nested()

    def told(*shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        calls: list[Any] = [(nested(*s), {}) for s in shapes]
        return [tuple(c[0][0]["x"][0].shape[:-1]) for c in _telling(model, calls[0], calls)]

    assert told((2, 3), (2, 3), (4, 3), (5, 3), (6, 3)) == [(4, 3)]
    assert told((2, 3), (4, 3), (4, 7), (5, 7)) == [(4, 3), (4, 7)]
    assert told((2, 3, 3), (2, 4, 4), (2, 5, 6), (2, 6, 7)) == [(2, 4, 4), (2, 5, 6)]
    many = [(2, *(3 if i != j else 4 for j in range(_SHOWN + 3))) for i in range(_SHOWN + 3)]
    assert len(told((2, *[3] * (_SHOWN + 3)), *many)) == _SHOWN


def test_arguments_that_some_calls_leave_out_are_seen() -> None:
    model = Nested()
    calls: list[Any] = [(nested(2, 3), {}), ((), {"inputs": nested(2, 3)[0], "scale": torch.ones(4)})]
    assert _telling(model, calls[0], calls) == [calls[1]]
