"""What reports say of versions that were not kept, and of those that were picked, is true."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mcomp
from tests.api.models import batches, wide

X = batches(1)[0][0]


def optimize(**options: Any) -> mcomp.CompiledModel:
    given = {"target": "reference", "objective": "size", "calibration": batches(), "progress": False}
    return mcomp.optimize(wide(), (X,), **{**given, **options})


def verdicts(report: Any) -> dict[str, str]:
    return {stage.name: stage.verdict for stage in report.stages}


@pytest.fixture(scope="module")
def fast() -> mcomp.CompiledModel:
    return optimize(max_error=0.05)


def test_a_version_beyond_the_budget_that_was_picked_says_so(fast: mcomp.CompiledModel) -> None:
    over = [v for v in fast.frontier if v.within_budget is False]
    assert over
    report = fast.pick(over[0]).report()
    text = " ".join(report.notes)
    assert "this version does not keep the budget (over budget: output error" in text
    assert "nearest" not in text and "could not be met" not in text
    assert verdicts(report)[over[0].name].startswith("picked; over budget")
    assert verdicts(report)[fast.report().kept.name] == "kept by the search"
    assert report.kept.name == over[0].name and report.within_budget is False


def test_what_is_better_is_what_was_kept_whatever_is_picked(fast: mcomp.CompiledModel) -> None:
    lossless = next(v for v in fast.frontier if v.name == "lossless")
    kept = fast.report().kept.name
    found = verdicts(fast.pick(lossless).report())
    assert found["lossless"] == "picked" and found[kept] == "kept by the search"
    assert not any("lossless is better" in text for text in found.values())
    assert verdicts(fast.report())[kept] == "kept"


def test_a_pipeline_beyond_the_budget_is_no_nearest_version() -> None:
    report = optimize(pipeline="quantize{bits=8}", max_error=1e-9).report()
    assert "the budget could not be met by this pipeline" in report.notes
    assert "nearest" not in str(report)


def test_where_nothing_fits_the_version_that_is_kept_is_the_nearest() -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> float:
        calls.append(model)
        return float(len(calls) == 1)

    fast = optimize(evaluate=evaluate, max_drop=0.1)
    assert "the budget could not be met; this is the nearest version found" in fast.report().notes
    other = next(v for v in fast.frontier if v.name != "lossless")
    text = " ".join(fast.pick(other).report().notes)
    assert "the budget could not be met; this version does not keep the budget" in text and "nearest" not in text


def test_why_a_version_was_not_judged() -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> float:
        calls.append(model)
        if len(calls) > 1:
            raise ValueError("the disk is full")
        return 1.0

    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(2, 64, generator=generator)  # units that others can stand for: a plan errs less than int8
    calibration = [(torch.randn(64, 2, generator=generator) @ basis,) for _ in range(8)]
    report = optimize(evaluate=evaluate, max_drop=0.1, calibration=calibration).report()
    assert report.kept.name == "lossless" and "ended early" in " ".join(report.notes)
    found = verdicts(report)
    for name in ("int8", "plan 1"):
        assert found[name] == f"not judged: evaluate raised ValueError on {name}: the disk is full"
    assert found["int8, dynamic"] == "not judged"


def test_a_version_that_was_being_judged_when_the_user_interrupted() -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> float:
        calls.append(model)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    report = optimize(evaluate=evaluate, max_drop=0.1).report()
    assert report.kept.name == "int8"
    assert verdicts(report)["plan 1"] == "not judged: the search was interrupted"
