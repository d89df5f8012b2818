"""What the time is used for where nothing can be trained in it."""

from __future__ import annotations

from typing import Any

import pytest

import mcomp
from mcomp.plan.training import Trainer
from mcomp.plan.work import Workshop
from tests.api.models import batches, wide

X = batches(1)[0][0]


@pytest.mark.parametrize("made", [0, 1])
def test_where_nothing_was_trained_the_rest_of_the_time_goes_to_plans_without(
    monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    """The time before training is over already, that of the search is not."""
    def run(self: Trainer) -> None:
        self.made = made

    monkeypatch.setattr(Trainer, "run", run)
    monkeypatch.setattr(Workshop, "out_of_time", lambda self, share=1.0: share < 0.5)
    fast = mcomp.optimize(
        wide(), (X,), target="reference", objective="size", calibration=batches(), progress=False, max_error=0.05,
        time_limit=3600.0,
    )
    report: Any = fast.report()
    plans = [stage.name for stage in report.stages if stage.name.startswith("plan")]
    assert report.within_budget is True
    assert bool(plans) is (made == 0)
    assert any("no time to try a plan" in note for note in report.notes) is (made == 1)
    assert len(plans) == len(set(plans))
    if plans:
        assert report.kept.name.startswith("plan")
