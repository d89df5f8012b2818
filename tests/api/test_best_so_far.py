"""Whatever interrupts or breaks the last steps of a search, or one candidate, the best version so far comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.errors import BackendError, PassError
from mcomp.plan import account, build, search
from mcomp.plan.work import Version, Workshop
from tests.api.models import batches, wide

X = batches(1)[0][0]


def optimize(**options: Any) -> mcomp.CompiledModel:
    given = {"target": "reference", "objective": "size", "calibration": batches(), "progress": False, "max_error": 0.05}
    return mcomp.optimize(wide(), (X,), **{**given, **options})


def interrupted(patch: pytest.MonkeyPatch, owner: Any, name: str, times: int = 1) -> list[Any]:
    """Ctrl-C at the first calls of a function; what it was called with."""
    inner, calls = getattr(owner, name), []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) <= times:
            raise KeyboardInterrupt
        return inner(*args, **kwargs)

    patch.setattr(owner, name, called)
    return calls


def names(versions: Sequence[Version]) -> list[str]:
    return [v.name for v in versions]


def test_ctrl_c_while_versions_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = interrupted(monkeypatch, Workshop, "measure")
    fast = optimize()
    report = fast.report()
    assert report.within_budget is True and report.kept.name not in ("lossless", "original")
    assert any("measuring was interrupted" in note for note in report.notes)
    assert len(calls[0][1]) > 2
    assert names(calls[1][1]) == ["lossless", report.kept.name]
    assert report.kept.latency_ms is not None
    assert names(fast.frontier)[-1] == report.kept.name
    assert fast(X).shape == (8, 8)


def test_ctrl_c_twice_while_versions_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, Workshop, "measure", times=2)
    fast = optimize()
    report = fast.report()
    assert report.within_budget is True and report.kept.latency_ms is None
    assert report.kept.name in names(fast.frontier)


def test_after_an_interrupted_search_only_what_is_kept_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[list[str]] = []
    inner = Workshop.measure

    def measure(self: Workshop, versions: Sequence[Version], budget: float = 3.0) -> None:
        timed.append(names(versions))
        inner(self, versions, budget)

    monkeypatch.setattr(Workshop, "measure", measure)
    interrupted(monkeypatch, search.Planner, "_switch")
    report = optimize().report()
    assert timed == [["lossless", report.kept.name]]
    assert len(report.stages) > 3 and report.within_budget is True


def test_when_the_time_is_up_only_what_is_kept_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[list[str]] = []
    monkeypatch.setattr(Workshop, "measure", lambda self, versions: timed.append(names(versions)))
    monkeypatch.setattr(search.Planner, "_switch", lambda self: monkeypatch.setattr(Workshop, "out_of_time", late))

    def late(self: Workshop, share: float = 1.0) -> bool:
        return True

    report = optimize(time_limit=3600.0).report()
    assert timed == [["lossless", report.kept.name]]
    assert any("the time limit ended the search" in note for note in report.notes)


def test_ctrl_c_while_the_best_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, Workshop, "try_quality")
    report = optimize(evaluate=lambda model: 1.0).report()
    assert report.within_budget is True and report.kept.quality is None
    assert any("measuring was interrupted" in note for note in report.notes)


def test_ctrl_c_while_layers_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, account, "_by_layer")
    report = optimize().report()
    assert report.within_budget is True
    rows = {row.layer: row for row in report.rows}
    assert {"body", "head"} <= set(rows) and rows["body"].measured_us is None
    assert rows["body"].weight_bytes < rows["body"].weight_bytes_before
    assert report.ledger and any("measuring layers was interrupted" in note for note in report.notes)


def test_ctrl_c_while_the_lossless_version_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, Workshop, "try_budget")
    report = optimize(max_error=0.0).report()
    assert report.kept.name == "lossless" and report.within_budget is None
    assert any("interrupted" in note for note in report.notes)


def test_a_version_that_cannot_be_timed_costs_the_times_of_others_only(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Workshop.measure

    def measure(self: Workshop, versions: Sequence[Version], budget: float = 3.0) -> None:
        if len(versions) > 2:
            raise RuntimeError("no such kernel")
        inner(self, versions, budget)

    monkeypatch.setattr(Workshop, "measure", measure)
    report = optimize().report()
    assert report.within_budget is True and report.kept.latency_ms is not None
    assert any("no such kernel" in note for note in report.notes)


# single candidates

def broken(patch: pytest.MonkeyPatch, method: str, name: str, error: Exception) -> None:
    """Something that fails for one version."""
    inner = getattr(Workshop, method)

    def called(self: Workshop, version: Any, *args: Any, **kwargs: Any) -> Any:
        some = version if isinstance(version, list) else [version]
        if any(name == (v if isinstance(v, str) else v.name) for v in some):
            raise error
        return inner(self, version, *args, **kwargs)

    patch.setattr(Workshop, method, called)


@pytest.mark.parametrize("method", ["make", "speedups", "within_budget"])
@pytest.mark.parametrize("planned", [True, False])
def test_a_candidate_that_fails_costs_itself(monkeypatch: pytest.MonkeyPatch, method: str, planned: bool) -> None:
    """int8 cannot be made, run in a race, or judged."""
    broken(monkeypatch, method, "int8", RuntimeError("no luck"))
    options = {"objective": "latency"} if method == "speedups" else {}
    monkeypatch.setattr(search, "_pays", lambda workshop, version, gain: True)
    report = optimize(calibration=batches() if planned else None, **options).report()
    assert any("int8 was left out (RuntimeError: no luck)" in note for note in report.notes)
    stages = [stage.name for stage in report.stages]
    assert "int8" not in stages and "int8, dynamic" in stages
    if not planned and method != "speedups":
        assert report.kept.name == "int8, dynamic" and report.within_budget is True


def test_a_retreat_that_fails_costs_its_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> bool:
        raise PassError("no layer is left")

    monkeypatch.setattr(search, "retreat", fail)
    report = optimize(calibration=None, max_error=1e-6).report()
    assert report.kept.name == "lossless"
    assert sum("with layers in float, was left out (PassError" in note for note in report.notes) == 2


def test_options_that_a_pass_refuses_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "make", "int8", PassError("bits is 3"))
    with pytest.raises(PassError, match="bits is 3"):
        optimize()


def test_calibration_data_that_the_model_refuses_is_an_error() -> None:
    """Indices beyond the table."""
    model = nn.Sequential(nn.Embedding(8, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    given = [(torch.zeros(4, dtype=torch.int64),), (torch.full((4,), 9),)]
    with pytest.raises(BackendError, match="index out of range"):
        mcomp.optimize(model, given[0], calibration=given, max_error=0.1, target="reference", progress=False)


def test_ctrl_c_before_there_is_anything_to_keep_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, build.Workshop, "lossless")
    with pytest.raises(KeyboardInterrupt):
        optimize()
