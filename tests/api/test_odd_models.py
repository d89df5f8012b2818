"""Models and calibration data that are legal and unusual: what is decided of them is right, or said."""

from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.plan.quality import relative_error
from tests.api.models import batches, wide

X = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))


def optimize(model: nn.Module, **options: Any) -> mcomp.CompiledModel:
    given = {"target": "reference", "objective": "size", "calibration": [(X,), (X + 0.1,)], "progress": False}
    return mcomp.optimize(model.eval(), (X,), **{**given, **options})


class Labels(nn.Module):
    """Gives labels only: f32[B, 32] -> i64[B]."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(32, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.up(x))).argmax(-1)


def test_of_labels_the_share_that_differs_counts() -> None:
    first, second = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])
    assert relative_error([[first]], [[second]]) == 0.25
    assert relative_error([[first, torch.ones(2)]], [[second, torch.ones(2)]]) == 0.0
    assert relative_error([[first > 1]], [[second > 1]]) == 0.0
    assert relative_error([[first[:2]]], [[second]]) == 1.0  # as many as differ, whatever they are
    assert relative_error([[first[:1], torch.ones(2)]], [[second, torch.ones(2)]]) == 0.0


def test_a_model_that_gives_labels_only() -> None:
    torch.manual_seed(0)
    model = Labels()
    fast = optimize(model, pipeline="prune{ratio=0.9,what=[ffn]}", max_error=0.01)
    assert any(entry["rule"] == "prune" for entry in fast.report().ledger)
    different = torch.cat([fast(x) != model(x) for x in (X, X + 0.1)]).float().mean()
    assert fast.report().kept.error == pytest.approx(float(different)) and different > 0.01
    assert fast.report().within_budget is False


def test_calibration_data_made_in_inference_mode() -> None:
    with torch.inference_mode():
        data = [(x * 1.0,) for x, in batches()]
    fast = mcomp.optimize(
        wide(), data[0], calibration=data, pipeline="prune{ratio=0.5,score=taylor}", target="reference", progress=False,
    )
    assert any(entry["rule"] == "prune" for entry in fast.report().ledger)


class Logarithm(nn.Module):
    """Without its branch the logarithm is of negative numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 4)
        nn.init.constant_(self.down.bias, 40.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - 10.0
        return self.head(torch.log(x + self.down(torch.relu(self.up(x)))))


def test_a_branch_that_cannot_go_is_no_choice() -> None:
    torch.manual_seed(0)
    report = optimize(Logarithm(), max_error=0.1).report()
    assert report.within_budget is True
    assert not any("failed" in note for note in report.notes)


class Turns(nn.Module):
    """Its code looks at values: one of two layers runs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if x.sum() > 0 else self.other(x)


def test_calibration_data_that_never_reaches_a_part() -> None:
    model = Turns().eval()
    x = X.abs()
    fast = mcomp.optimize(model, (x,), calibration=[(-x,), (-2 * x,)], target="reference", progress=False)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        torch.testing.assert_close(fast(-x), model(-x))


def test_a_batch_norm_and_one_row_of_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)).eval()
    fast = mcomp.optimize(
        model, (X,), calibration=[(X[:1],)], pipeline="prune{ratio=0.5}", target="reference", progress=False,
    )
    assert bool(torch.isfinite(fast(X)).all())
