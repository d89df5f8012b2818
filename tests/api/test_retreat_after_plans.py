"""Where no plan fits, int8 with what errs most in float may: layers that the planner has no levels for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mcomp
from mcomp.passes.compress import findings


class Tagger(nn.Module):
    """An LSTM that amplifies small errors, and a linear: f32[B, 12, 32] -> f32[B, 12, 64]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.head = nn.Linear(32, 64)
        with torch.no_grad():
            for weight in self.lstm.parameters():
                weight *= 6.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def test_a_budget_that_an_lstm_in_int8_breaks_is_met_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tagger().eval()
    data = torch.randn(48, 12, 32, generator=torch.Generator().manual_seed(1))
    options = {"calibration": [(data,)], "objective": "size", "target": "reference", "progress": False}
    int8 = mcomp.optimize(model, (data[:8],), pipeline="quantize", **options)
    recurrent = next(e["node"] for e in int8.report().ledger if e["layer"] == "lstm")
    without = mcomp.optimize(model, (data[:8],), pipeline=f"quantize{{leave=[{recurrent}]}}", **options)
    broken, held = (m.report().stages[-1].error for m in (int8, without))
    assert 1.5 * held < broken
    budget = (held * broken) ** 0.5
    planned = mcomp.optimize(model, (data[:8],), max_error=budget, **options).report()
    monkeypatch.setattr(findings, "sequence_levels", lambda graph, context: {})  # a planner that knows linears only
    fast = mcomp.optimize(model, (data[:8],), max_error=budget, **options)
    assert fast.report().within_budget
    assert [e["layer"] for e in fast.report().ledger] == ["head"]
    assert planned.within_budget and planned.kept.weight_bytes < fast.report().kept.weight_bytes

