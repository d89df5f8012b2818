"""Reports say what binds, whether or not anything kept the budget, and whether there was time to find out."""

from __future__ import annotations

import re
from typing import Any

import pytest

import mcomp
from mcomp.plan import planner, training
from mcomp.plan.hurry import OutOfTime
from mcomp.plan.planner import Planner
from tests.api.models import batches, wide

X = batches(1)[0][0]
SOURCES = re.compile(r"comes from .*(body|head|linear).*\(\d+%\)")


def notes(**options: Any) -> list[str]:
    given = {"target": "reference", "objective": "size", "calibration": batches(), "progress": False, "max_error": 0.05}
    return mcomp.optimize(wide(), (X,), **{**given, **options}).report().notes


def test_where_nothing_fits_the_nearest_attempt_and_its_sources_are_told() -> None:
    (found,) = [n for n in notes(max_error=1e-4) if "no choice kept the budget" in n]
    share = re.search(r"with the least output error \([\d.e-]+\), takes (\d+)% of it", found)
    assert share is not None and int(share.group(1)) > 100
    assert SOURCES.search(found)


def test_a_budget_of_nothing_has_no_shares() -> None:
    (found,) = [n for n in notes(max_error=0.0) if "no choice kept the budget" in n]
    assert "breaks it; most of that error comes from" in found


def test_that_there_was_no_time_to_try_anything_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(*args: Any) -> Any:
        raise OutOfTime

    with monkeypatch.context() as patch:
        patch.setattr(planner, "registered_offers", lambda: [survey])
        found = notes(time_limit=3600.0)
    assert any("no time to try a plan" in n for n in found)
    assert not any("failed" in n for n in found)
    monkeypatch.setattr(training, "LEAST_SECONDS", float("inf"))
    monkeypatch.setattr(Planner, "_late", lambda self: True)
    assert any("no time to try a plan" in n for n in notes(time_limit=3600.0))


def test_where_int8_uses_the_budget_up_time_is_not_what_was_missing() -> None:
    assert not any("no time" in n for n in notes(max_error=1e-4))


def test_a_search_that_the_time_limit_broke_off_tells_what_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the trial that tells how long training takes."""
    def pace(*args: Any) -> Any:
        raise OutOfTime

    monkeypatch.setattr(training, "pace_of", pace)
    found = notes(time_limit=3600.0)
    assert any("without training" in n and SOURCES.search(n) for n in found)
    assert any("the time limit ended the search" in n for n in found)
